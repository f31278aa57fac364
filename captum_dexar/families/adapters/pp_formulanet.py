"""PP-FormulaNet, whose decoder writes the formula that an encoder has seen."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import picked
from captum_dexar.families.geometry.thumbnail import thumbnail_canvas
from captum_dexar.families.prompt_reuse import Reuse
from captum_dexar.families.shared.image_encoder import ImageEncoderAdapter
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size
from torch import Tensor

# Two convolutions of 3 x 3, each with a stride of two, leave a token for so many
# patches along a side; the patch in the middle of what it sees is the first of them.
MERGED, AHEAD = 4, 1.5


class PPFormulaNetAdapter(ImageEncoderAdapter):
    """A square grid over a formula that is cut out, fitted and padded.

    A token sees 7 x 7 patches, around one that is further up and left than the middle
    of the 4 x 4 patches of its cell. So cells are moved there.
    """

    name: ClassVar[str] = "PP-FormulaNet"
    model_types: ClassVar[tuple[str, ...]] = ("pp_formulanet",)
    processor_types: ClassVar[tuple[str, ...]] = ("PPFormulaNetProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the encoder's blocks silenced, where torchvision is installed"
    )
    steps_run_on: ClassVar[str] = "one full pass"

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """See :meth:`FamilyAdapter.reuse`; the decoder reads what is pooled from the
        encoder's states, which are not kept."""
        return "full_pass"

    def num_states(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`ImageEncoderAdapter.num_states`."""
        rows, columns = _grid(config)
        return rows * columns

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        grid, rectangle = _grid(image.config), None
        if image.size is not None and image.image_processor is not None:
            canvas = thumbnail_canvas(image.image_processor, image.size, image.image)
            rectangle = canvas and _centred(canvas, grid)
        return self.placed("full", grid, rectangle)

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        (view,), patch = layout.views, int(config.vision_config.patch_size)
        cells = [
            ((torch.arange(pixels) / patch + AHEAD) // MERGED)
            .long()
            .clamp(max=side - 1)
            for pixels, side in zip(inputs[self.pixel_input].shape[-2:], view.grid)
        ]
        return picked(view.tokens.view(view.grid), *cells)[None, None]


def _centred(canvas: Rectangle, grid: Size) -> Rectangle:
    """The rectangle of the grid's cells, each around the patches that it sees."""
    y0, x0, y1, x1 = canvas
    up, left = (y1 - y0) / grid[0], (x1 - x0) / grid[1]
    up, left = up * AHEAD / MERGED, left * AHEAD / MERGED
    return (y0 - up, x0 - left, y1 - up, x1 - left)


def _grid(config: Any) -> Size:
    vision = config.vision_config
    side = int(vision.image_size) // int(vision.patch_size)
    for _ in range(2):
        side = (side + 1) // 2
    return side, side
