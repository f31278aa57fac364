"""IDEFICS without a resampler, with gated cross-attention between its layers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import patch_of
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.maps.layout import Size, View
from torch import Tensor


class IdeficsAdapter(FamilyAdapter):
    """Each image, stretched to a square, is a class token and a grid of patches.

    A gated block of cross-attention counts as a layer before the one that it precedes.
    A token reads the image that comes last before it.
    """

    name: ClassVar[str] = "IDEFICS without a resampler"
    model_types: ClassVar[tuple[str, ...]] = ("idefics",)
    processor_types: ClassVar[tuple[str, ...]] = ("IdeficsProcessor",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "image_attention_mask": None,
    }
    required_inputs: ClassVar[tuple[str, ...]] = ("image_attention_mask",)
    # A pass on a cache would need the image again.
    replayable: ClassVar[bool] = False
    steps_run_on: ClassVar[str] = "one full pass"
    cross_attention: ClassVar[str | None] = "cross_attn"

    def matches(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.matches`."""
        return super().matches(config) and not config.use_resampler

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`."""
        pixels: Tensor = inputs["pixel_values"]
        rows, columns = _grid(pixels, config)
        keys = torch.arange(
            pixels.shape[1] * (1 + rows * columns), device=pixels.device
        )
        return keys.expand(pixels.shape[0], -1)

    def num_image_tokens(
        self, inputs: Mapping[str, Any], processor: Any, config: Any
    ) -> int:
        """See :meth:`FamilyAdapter.num_image_tokens`.

        Raises:
            ValueError: The configuration is not known.
        """
        if config is None:
            raise ValueError(
                f"The processor of {self.name} does not know how many patches an image "
                "has. Pass the model too: ImagePromptInput(image, prompt, processor, "
                "model)."
            )
        return super().num_image_tokens(inputs, processor, config)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        grid = _grid(image.inputs["pixel_values"], image.config)
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            patch = patch_of(image.config)
            assert patch is not None
            seen = (grid[0] * patch[0], grid[1] * patch[1])
            rectangle = resized_crop(image.image_processor, image.size, seen)
        view = View("full", grid, rectangle, start=1)
        return ImageTokens(1 + view.num_tokens, (view,))

    def placeholder(self, processor: Any) -> str:
        """See :meth:`FamilyAdapter.placeholder`; the processor puts them in."""
        return ""

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`; the question, behind all images."""
        return question

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`."""
        listed = list(images) if isinstance(images, (list, tuple)) else [images]
        return processor(text=[[*listed, text]], return_tensors="pt")


def _grid(pixels: Tensor, config: Any) -> Size:
    patch = patch_of(config)
    assert patch is not None
    return pixels.shape[-2] // patch[0], pixels.shape[-1] // patch[1]
