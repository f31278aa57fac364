"""An input that has been checked, with all that belongs to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captum.attr import ImageMaskInput
from captum_dexar.families import adapter_for_config, given_layout
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.inputs.image_tokens import ImageTokenInput
from captum_dexar.inputs.targets import contrast_tensor
from captum_dexar.maps.layout import ImageLayout
from torch import nn, Tensor


@dataclass(frozen=True, eq=False)
class CheckedPrompt:
    """One prompt.

    Attributes:
        inp (Any): the input, as it was given
        inputs (dict): the model's inputs
        layout (ImageLayout): places of its image tokens
        answer (Tensor or None): the answer that was given, ``(T,)``
        contrast (Tensor or None): the contrast that was given, 1-D
    """

    inp: Any
    inputs: dict[str, Any]
    layout: ImageLayout
    answer: Tensor | None
    contrast: Tensor | None

    def contrast_ids(self, num_steps: int) -> Tensor | None:
        """What each step is contrasted with, ``(1, steps)``."""
        if self.contrast is None:
            return None
        return contrast_tensor(self.contrast, num_steps)


def layout_of(
    inp: Any,
    inputs: Mapping[str, Any],
    num_tokens: int,
    model: nn.Module,
    processor: Any,
    *,
    grid: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
) -> ImageLayout:
    """The places of an input's image tokens, as far as they can be known."""
    image_sizes = None
    if isinstance(inp, ImageTokenInput):
        image_sizes = inp.layout.image_sizes
    elif isinstance(inp, ImageMaskInput) and processor is not None:
        image_sizes = ((inp.image.height, inp.image.width),)
    if grid is not None or boxes is not None:
        return given_layout(num_tokens, image_sizes, grid=grid, boxes=boxes)
    if isinstance(inp, ImagePromptInput):
        return inp.layout
    config: Any = model.config
    return adapter_for_config(config).layout(
        inputs, num_tokens, image_sizes=image_sizes, processor=processor, config=config
    )


def check_places(
    inp: Any, inputs: Mapping[str, Any], layout: ImageLayout, model: nn.Module
) -> None:
    """Raises ValueError unless the image tokens lie where ``layout`` says."""
    if isinstance(inp, ImagePromptInput) and inp.places_are_given:
        return
    is_token_input = isinstance(inp, ImageTokenInput)
    adapter_for_config(model.config).check(
        model,
        inputs,
        layout,
        inp.images if is_token_input else [],
        inp.processor_fn if is_token_input else None,
    )
