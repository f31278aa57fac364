"""HunYuan-VL (HunyuanOCR)."""

from typing import ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.patch_grid import MultimodalRopeAdapter
from captum_dexar.maps.layout import View


class HunYuanVLAdapter(MultimodalRopeAdapter):
    """One grid per image, whose rows end with a newline.

    Newlines are image tokens, as are one before and one after the grid; they have no
    place.
    """

    name: ClassVar[str] = "HunYuan-VL"
    model_types: ClassVar[tuple[str, ...]] = ("hunyuan_vl",)
    processor_types: ClassVar[tuple[str, ...]] = ("HunYuanVLProcessor",)
    in_raster_order: ClassVar[bool] = True
    # Images of a batch are counted through, and their number is part of a position.
    can_be_batched: ClassVar[bool] = False

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        (view,) = super().image_tokens(image).views
        rows, columns = view.grid
        stride = columns + 1
        placed = View("full", view.grid, view.rectangle, start=1, row_stride=stride)
        return ImageTokens(rows * stride + 2, (placed,))
