"""Granite 4 Vision."""

from fractions import Fraction
from typing import Any, ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.grids import patch_of
from captum_dexar.families.shared.tiled_canvas import TiledCanvasAdapter
from captum_dexar.maps.layout import Size


class Granite4VisionAdapter(TiledCanvasAdapter):
    """Windows of patches become smaller windows of tokens.

    A token is a query of its window: it reads all patches of that, and what is added to
    it (a mean of patches, or one of them) is of its own cell.
    """

    name: ClassVar[str] = "Granite 4 Vision"
    model_types: ClassVar[tuple[str, ...]] = ("granite4_vision",)
    processor_types: ClassVar[tuple[str, ...]] = ("Granite4VisionProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end, where a token stands for a window of patches; where a window has "
        "several tokens (4 x 4 for 8 x 8 patches), each reads the whole window, and "
        "boxes are sure to the window only"
    )

    def patch_size(self, image: PreparedImage, tile: int) -> int:
        """See :meth:`TiledCanvasAdapter.patch_size`."""
        if image.config is not None:
            return self.token_pixels(image.config)[0]
        rate = image.processor.downsample_rate
        return int(image.processor.patch_size / Fraction(rate or 1))

    def token_pixels(self, config: Any) -> Size:
        """See :meth:`TiledCanvasAdapter.token_pixels`."""
        patch, rate = patch_of(config), Fraction(config.downsample_rate)
        assert patch is not None
        return int(patch[0] / rate), int(patch[1] / rate)
