"""Llama 3.2 Vision (Mllama), with cross-attention layers for the image."""

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import tokens_of_picture
from captum_dexar.families.prompt_reuse import Reuse
from captum_dexar.families.shared.plain_prompt import PlainPromptAdapter
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size, View
from torch import Tensor


class MllamaAdapter(PlainPromptAdapter):
    """Tiles of an image that is fitted into a canvas, padded at its bottom and right.

    The keys of a cross-attention layer are a CLS token and a grid of patches for every
    tile, used or not; the placeholder in the prompt is a text token.
    """

    name: ClassVar[str] = "Llama 3.2 Vision"
    model_types: ClassVar[tuple[str, ...]] = ("mllama",)
    processor_types: ClassVar[tuple[str, ...]] = ("MllamaProcessor",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "cross_attention_mask": None,
    }
    # Without the mask SDPA silently takes the cross-attention for a causal one.
    required_inputs: ClassVar[tuple[str, ...]] = (
        "aspect_ratio_ids",
        "aspect_ratio_mask",
        "cross_attention_mask",
    )
    inputs_on_cache: ClassVar[tuple[str, ...]] = ("cross_attention_mask",)
    cross_attention: ClassVar[str | None] = "cross_attn"
    only_model_counts_tokens: ClassVar[bool] = True

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """See :meth:`FamilyAdapter.reuse`."""
        # A cache's length is that of its first layer, which must not be the image's.
        if 0 in config.get_text_config().cross_attention_layers:
            return "full_pass"
        return super().reuse(inputs, config)

    def crop(self, cache: Any, num_tokens: int, config: Any) -> None:
        """See :meth:`FamilyAdapter.crop`; the image's keys stay."""
        if num_tokens:
            of_image = set(config.get_text_config().cross_attention_layers)
            for index, layer in enumerate(cache.layers):
                if index not in of_image:
                    layer.crop(-num_tokens)

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`."""
        batch = inputs["input_ids"].shape[0]
        images, tiles = inputs["pixel_values"].shape[1:3]
        side = _grid_side(config)
        keys = torch.arange(
            images * tiles * (1 + side * side), device=inputs["input_ids"].device
        )
        return keys.expand(batch, -1)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        side = _grid_side(image.config)
        _, _, num_tiles, _, tile_size, _ = image.inputs["pixel_values"].shape
        canvas = _canvas(image, num_tiles)
        per_tile = 1 + side * side
        views = tuple(
            View(
                "tile",
                (side, side),
                _rectangle(image.size, canvas, divmod(tile, canvas[1]), tile_size),
                start=tile * per_tile + 1,
            )
            for tile in range(canvas[0] * canvas[1])
        )
        return ImageTokens(num_tiles * per_tile, views)

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`; some tiles may be unused."""
        *pictures, _, height, width = inputs[self.pixel_input].shape
        token = torch.full((prod(pictures), height, width), -1)
        patch = self.pixel_patch(config)
        for view in layout.views:
            tile = view.start // (1 + view.num_tokens)
            token[tile] = tokens_of_picture(view, (height, width), patch)
        return token.view(*pictures, 1, height, width)


def _grid_side(config: Any) -> int:
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size)


def _image_processing() -> Any:
    """The module of transformers whose functions choose the canvas."""
    try:
        from transformers.models.mllama import image_processing_pil_mllama
    except ImportError:  # before there was one module per backend
        from transformers.models.mllama import image_processing_mllama

        return image_processing_mllama
    return image_processing_pil_mllama


def _canvas(image: PreparedImage, max_tiles: int) -> Size:
    """Rows and columns of the tiles that the image uses."""
    numbers = image.inputs["aspect_ratio_ids"][:, image.index]
    if bool((numbers != numbers[0]).any()):
        raise ValueError(
            "The images of a batch must be cut into the same tiles, got the aspect "
            f"ratios {numbers.tolist()}. Explain one example at a time."
        )
    # Aspect ratios are numbered from one; zero stands for no image.
    ratios = _image_processing().get_all_supported_aspect_ratios(max_tiles)
    rows, columns = ratios[int(numbers[0]) - 1]
    return rows, columns


def _rectangle(
    size: Size | None, canvas: Size, tile: Size, tile_size: int
) -> Rectangle | None:
    if size is None:
        return None
    fitted = _image_processing().get_image_size_fit_to_canvas(
        *size, canvas[0] * tile_size, canvas[1] * tile_size, tile_size
    )
    step_y = tile_size * size[0] / float(fitted[0])
    step_x = tile_size * size[1] / float(fitted[1])
    y0, x0 = tile[0] * step_y, tile[1] * step_x
    return (y0, x0, y0 + step_y, x0 + step_x)
