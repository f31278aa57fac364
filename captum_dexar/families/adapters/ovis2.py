"""Ovis2."""

from typing import Any, ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.tiles import merged_tokens
from captum_dexar.families.shared.tiles import function_of, TilesAdapter
from captum_dexar.maps.layout import Size


class Ovis2Adapter(TilesAdapter):
    """The copy comes first; indicator tokens between the grids are text tokens whose
    embeddings the model replaces.

    It would also replace that of a generated indicator token in a pass over prompt and
    answer, but not while generating: the pass on a cache is the right one.
    """

    name: ClassVar[str] = "Ovis2"
    model_types: ClassVar[tuple[str, ...]] = ("ovis2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Ovis2Processor",)
    copy_comes_first: ClassVar[bool] = True

    def image_token_id(self, processor: Any) -> int:
        """See :meth:`FamilyAdapter.image_token_id`.

        ``processor.image_token_id`` is another, that of the placeholder.
        """
        return int(processor.tokenizer.convert_tokens_to_ids("<IMG_ATOM>"))

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :meth:`TilesAdapter.tokens_across_tile`."""
        if image.config is None:
            return side_of(int(image.processor.image_seq_length)), 1.0
        vision = image.config.vision_config
        return merged_tokens(tile, int(vision.patch_size), int(vision.hidden_stride))

    def columns_and_rows(self, image: PreparedImage) -> Size:
        """See :meth:`TilesAdapter.columns_and_rows`; there are two ways of choosing."""
        settings = image.image_processor
        if not settings.use_covering_area_grid:
            return super().columns_and_rows(image)
        columns, rows = function_of(settings, "get_min_tile_covering_grid")(
            image.size,
            target_patch_size=settings.size["height"],
            max_image_tiles=settings.max_patches,
        )
        return int(columns), int(rows)
