"""A prompt: completed model inputs, image token positions and given answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from captum.attr import ImageMaskInput
from captum_dexar.families import adapter_for_config, FamilyAdapter, given_layout
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.inputs.model_inputs import complete_inputs, model_inputs_of
from captum_dexar.inputs.places import checked_places, places_of_processor_fn
from captum_dexar.inputs.targets import given_ids, Target
from captum_dexar.maps.image_tokens import ImageTokenInput
from captum_dexar.maps.layout import ImageLayout
from PIL import Image
from torch import nn, Tensor


class Prompt:
    """One prompt, or a batch of prompts padded on the left.

    Args:
        model (nn.Module): the vision-language model
        given_inputs (Mapping): the processor's output, as ``model.generate`` takes it
        inp (Any, optional): the user's input. Default: None
        layout (ImageLayout, optional): places of the image tokens. Default: None,
            derived from the model's inputs
        answer (Tensor, optional): the given answer, ``(T,)``. Default: None
        contrast (Tensor, optional): the contrasting answer, 1-D. Default: None
        adapter (FamilyAdapter, optional): the adapter of the model's family, with the
            places that were asked for. Default: None, that with the image tokens' own
        examples (sequence of Prompt, optional): the prompts of a batch. Default: None,
            this is a single prompt

    Attributes:
        adapter (FamilyAdapter): the adapter of the model's family
        inputs (dict): ``given_inputs`` with the attention mask, the position ids and
            the decoder's start token that the family needs
        image_keys (Tensor): positions of the image tokens among the keys, ``(batch,
            image tokens)``
        encoder_keys (int): see :meth:`FamilyAdapter.num_encoder_keys`
        ids (Tensor): the start of generated sequences, ``(batch, length)``: the prompt,
            or an encoder-decoder's start token
        length (int): number of tokens in ``ids``
        examples (tuple of Prompt): the prompts of the batch, one per row
        shares (Tensor or None): how image tokens that are queries are spread over
            patches, ``(image tokens, vision tokens)``, once that is known
    """

    def __init__(
        self,
        model: nn.Module,
        given_inputs: Mapping[str, Any],
        *,
        inp: Any = None,
        layout: ImageLayout | None = None,
        answer: Tensor | None = None,
        contrast: Tensor | None = None,
        adapter: FamilyAdapter | None = None,
        examples: Sequence[Prompt] | None = None,
    ) -> None:
        self.model = model
        self.config: Any = model.config
        self.adapter: FamilyAdapter = adapter or adapter_for_config(self.config)
        self.given_inputs = dict(given_inputs)
        self.inputs = complete_inputs(self.adapter, given_inputs, self.config)
        self.image_keys = self.adapter.image_keys(self.inputs, self.config)
        self.encoder_keys = self.adapter.num_encoder_keys(self.inputs, self.config)
        self.is_encoder_decoder = self.adapter.is_encoder_decoder(self.config)
        self.answer_input = (
            "decoder_input_ids" if self.is_encoder_decoder else "input_ids"
        )
        self.ids: Tensor = self.inputs[self.answer_input]
        self.length = self.ids.shape[1]
        self.inp = inp
        self.answer = answer
        self.contrast = contrast
        self.shares: Tensor | None = None
        self.examples: tuple[Prompt, ...] = tuple(examples or (self,))
        if layout is not None:
            self.layout = layout

    @cached_property
    def layout(self) -> ImageLayout:
        """Places of the image tokens; all examples must have the same grid."""
        num_examples, num_tokens = self.image_keys.shape
        for name in self.adapter.grid_inputs:
            grids = torch.as_tensor(self.inputs[name]).tolist()
            per_example = len(grids) // num_examples
            if grids != grids[:per_example] * num_examples:
                raise ValueError(
                    "All examples of a batch must have images of the same grid, got "
                    f"{name} {grids}. Explain them one at a time."
                )
        return self.adapter.layout(
            self.inputs, num_tokens, image_sizes=None, config=self.config
        )

    def contrast_ids(self, first_step: int, num_steps: int) -> Tensor | None:
        """Contrast ids of some decoding steps, ``(1, steps)``, or None.

        -1 marks steps beyond the end of a shorter contrast.
        """
        if self.contrast is None:
            return None
        kept = self.contrast[first_step : first_step + num_steps]
        return nn.functional.pad(kept, (0, num_steps - len(kept)), value=-1)[None]


def read_prompt(
    inp: Any,
    model: nn.Module,
    processor: Any,
    *,
    target: Target = None,
    contrast: Target = None,
    grid: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
    places: str | None = None,
) -> Prompt:
    """Checks the arguments of :meth:`VLMAttribution.attribute` for one input."""
    config: Any = model.config
    places_are_given = grid is not None or boxes is not None
    is_placed = isinstance(inp, ImagePromptInput) and not places_are_given
    if is_placed:
        places = places or inp.asked_places
    adapter = adapter_for_config(config).placed_by(
        places, places_are_given or (is_placed and inp.places_are_given)
    )
    answer = None if target is None else given_ids(target, processor, model)
    against = None
    if contrast is not None:
        against = given_ids(contrast, processor, model, "contrast")
    inputs = model_inputs_of(inp, model)
    num_tokens = adapter.image_keys(inputs, config).shape[1]
    images = _original_images(inp, processor)
    sizes = [(image.height, image.width) for image in images] or None
    if places_are_given:
        layout = given_layout(num_tokens, sizes, grid=grid, boxes=boxes)
    elif isinstance(inp, ImagePromptInput):
        layout = inp.layout
        places_are_given = inp.places_are_given
        if not inp.places.are_certain:
            inp.places = checked_places(
                adapter,
                inp.places,
                inp.to_model_input(),
                inp.images,
                inp.processor_fn,
                config,
            )
    elif images:
        layout = places_of_processor_fn(
            adapter, inp, images, num_tokens, processor=processor, config=config
        )
    else:
        layout = adapter.layout(inputs, num_tokens, image_sizes=None, config=config)
    if not places_are_given:
        process = inp.processor_fn if images else None
        adapter.check(model, inputs, layout, images, process)
    return Prompt(
        model,
        inputs,
        inp=inp,
        layout=layout,
        answer=answer,
        contrast=against,
        adapter=adapter,
    )


def _original_images(inp: Any, processor: Any) -> list[Image.Image]:
    """The original images on which places are wanted."""
    if isinstance(inp, ImageTokenInput):
        return inp.images
    if isinstance(inp, ImageMaskInput) and processor is not None:
        return [inp.image]
    return []
