"""GOT-OCR 2 and PP-Chart2Table."""

from typing import Any, ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import merged_tokens
from captum_dexar.families.shared.image_blocks import known_token_id
from captum_dexar.families.shared.tiles import TilesAdapter
from captum_dexar.maps.layout import Size

# Two convolutions of stride 2 after SAM's patches.
PATCHES_ACROSS_TOKEN = 4


class GotOcr2Adapter(TilesAdapter):
    """A stretched picture; GOT-OCR 2 may also cut it into tiles, with a copy last.

    Two convolutions of 3 x 3 patches and stride 2 make a token: it sees the 4 x 4
    patches of its cell, which is its box, and three more above and to the left. Moved
    to the middle of these, cells would leave out a tile's last patches, and reach into
    the tile before it.
    """

    name: ClassVar[str] = "GOT-OCR 2, PP-Chart2Table"
    model_types: ClassVar[tuple[str, ...]] = ("got_ocr2", "pp_chart2table")
    processor_types: ClassVar[tuple[str, ...]] = (
        "GotOcr2Processor",
        "PPChart2TableProcessor",
    )
    boxes_checked: ClassVar[str] = (
        "end to end with the vision tower's attention silenced; convolutions also see "
        "three quarters of a box more above and to the left"
    )

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :meth:`TilesAdapter.tokens_across_tile`."""
        if image.config is None:
            is_image = image.inputs["input_ids"] == known_token_id(self, image)
            num_pictures = int(image.inputs[self.pixel_input].shape[0])
            return side_of(int(is_image.sum()) // num_pictures), 1.0
        patch_size = int(image.config.vision_config.patch_size)
        return merged_tokens(tile, patch_size, PATCHES_ACROSS_TOKEN)

    def tile_grid(self, image: PreparedImage) -> Size:
        """See :meth:`TilesAdapter.tile_grid`; PP-Chart2Table has no tiles."""
        if not hasattr(image.image_processor, "crop_to_patches"):
            return 1, 1
        return super().tile_grid(image)

    def image_token_id(self, processor: Any) -> int:
        """See :meth:`FamilyAdapter.image_token_id`."""
        return int(processor.tokenizer.convert_tokens_to_ids("<imgpad>"))

    def placeholder(self, processor: Any) -> str:
        """See :meth:`FamilyAdapter.placeholder`.

        PP-Chart2Table's chat template writes all image tokens after this one itself.
        """
        return str(getattr(processor, "image_token", "<img>"))

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`; GOT-OCR 2 has no chat template, but writes
        such a prompt when it is given none."""
        is_got = hasattr(processor, "system_query")
        if getattr(processor, "chat_template", None) is not None or not is_got:
            return super().prompt(question, processor, num_images)
        start, end = processor.message_start_token, processor.message_end_token
        pictures = self.placeholder(processor) * num_images
        return (
            f"{start}{processor.system_query}{end}{start}user\n"
            f"{processor.img_start_token}{pictures}{processor.img_end_token}\n"
            f"{question}{end}{start}assistant\n"
        )
