"""TrOCR, Donut, Nougat and other pairs of a vision tower and a decoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import picked
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.families.geometry.thumbnail import thumbnail_canvas
from captum_dexar.families.shared.image_encoder import ImageEncoderAdapter
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size, View
from torch import Tensor

# Tokens before the patches: a class token, and one for distillation.
TOKENS_AHEAD = {"vit": 1, "beit": 1, "deit": 2, "swin": 0, "donut-swin": 0}
# The module inside a decoder layer that reads the image.
CROSS_ATTENTION = {
    "trocr": "encoder_attn",
    "mbart": "encoder_attn",
    "bart": "encoder_attn",
    "gpt2": "crossattention",
    "bert": "crossattention",
    "roberta": "crossattention",
    "xlm-roberta": "crossattention",
}


class VisionEncoderDecoderAdapter(ImageEncoderAdapter):
    """Patches of a picture in a fixed size, or the last grid of a Swin tower.

    Where the decoder is TrOCR's, which computes attention itself, it is explained by
    plain autograd at the softmax.
    """

    name: ClassVar[str] = "TrOCR, Donut, Nougat (vision encoder-decoder)"
    model_types: ClassVar[tuple[str, ...]] = ("vision-encoder-decoder",)
    processor_types: ClassVar[tuple[str, ...]] = (
        "TrOCRProcessor",
        "DonutProcessor",
        "NougatProcessor",
    )
    steps_run_on: ClassVar[str] = (
        "the encoder's output; TrOCR: one pass per token, by plain autograd"
    )

    def cross_attention_of(self, config: Any) -> str | None:
        """See :meth:`FamilyAdapter.cross_attention_of`."""
        return str(_known(CROSS_ATTENTION, config.decoder, "decoder"))

    def needs_autograd(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.needs_autograd`."""
        return bool(config.decoder.model_type == "trocr")

    def needs_start(self, config: Any) -> bool:
        """See :meth:`ImageEncoderAdapter.needs_start`; Donut's prompts hold it."""
        return "donut" not in config.encoder.model_type

    def num_states(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`ImageEncoderAdapter.num_states`."""
        rows, columns = _grid(inputs[self.pixel_input], config.encoder)
        return _ahead(config.encoder) + rows * columns

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        pixels, tower = image.inputs[self.pixel_input], image.config.encoder
        grid, start = _grid(pixels, tower), _ahead(tower)
        view = View("full", grid, _rectangle(image, grid), start)
        return ImageTokens(start + view.num_tokens, (view,))

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        (view,), cell = layout.views, _cell(config.encoder)
        height, width = inputs[self.pixel_input].shape[-2:]
        rows, columns = torch.arange(height) // cell[0], torch.arange(width) // cell[1]
        rows = rows.where(rows < view.grid[0], -1)
        columns = columns.where(columns < view.grid[1], -1)
        return picked(view.tokens.view(view.grid), rows, columns)[None, None]


def _rectangle(image: PreparedImage, grid: Size) -> Rectangle | None:
    settings = image.image_processor
    if image.size is None or settings is None:
        return None
    cell = _cell(image.config.encoder)
    seen = (grid[0] * cell[0], grid[1] * cell[1])
    if not hasattr(settings, "do_thumbnail"):
        return resized_crop(settings, image.size, seen)
    canvas = thumbnail_canvas(settings, image.size, image.image)
    if canvas is None:
        return None
    # The last cells may extend beyond the picture, or not reach its edge.
    height, width = image.inputs["pixel_values"].shape[-2:]
    y0, x0, y1, x1 = canvas
    return (
        y0,
        x0,
        y0 + (y1 - y0) * seen[0] / height,
        x0 + (x1 - x0) * seen[1] / width,
    )


def _grid(pixels: Tensor, tower: Any) -> Size:
    cell = _cell(tower)
    sides = zip(pixels.shape[-2:], cell)
    if _is_swin(tower):
        # What is left over is padded to a whole cell.
        rows, columns = (-(-int(pixels) // side) for pixels, side in sides)
    else:
        rows, columns = (int(pixels) // side for pixels, side in sides)
    return rows, columns


def _cell(tower: Any) -> Size:
    """Height and width of the pixels that a token stands for."""
    patch = tower.patch_size
    height, width = (patch, patch) if isinstance(patch, int) else patch
    # Every stage but the first merges 2 x 2.
    merged = 2 ** (len(tower.depths) - 1) if _is_swin(tower) else 1
    return int(height) * merged, int(width) * merged


def _is_swin(tower: Any) -> bool:
    return "swin" in tower.model_type


def _ahead(tower: Any) -> int:
    return int(_known(TOKENS_AHEAD, tower, "vision tower"))


def _known(facts: Mapping[str, Any], config: Any, part: str) -> Any:
    if config.model_type not in facts:
        raise TypeError(
            f"A vision encoder-decoder with a {part} of type {config.model_type!r} is "
            f"not supported, only with one of {', '.join(facts)}. Register an adapter "
            "for it (captum_dexar.families.register)."
        )
    return facts[config.model_type]
