"""InternVL, Aya Vision, Cohere2 Vision, Ovis2: tiles and a copy of the whole image."""

from abc import abstractmethod
from typing import Any, ClassVar

from captum_dexar.families.base import (
    FamilyAdapter,
    ImageTokens,
    PreparedImage,
    side_of,
)
from captum_dexar.families.geometry.tiles import function_of, seen_part, tile_rectangles
from captum_dexar.maps.layout import Rectangle, Size, View


class _TiledAdapter(FamilyAdapter):
    """Tiles of an image stretched to fill them, and a small copy of it.

    An image that makes one tile has no copy. How many rows and columns of tiles there
    are is not among the model's inputs: it is asked of the image processor's own
    function.

    Attributes:
        copy_comes_first (bool): whether the tokens of the copy come before the tiles'
    """

    flat_pixels: ClassVar[bool] = True
    copy_comes_first: ClassVar[bool] = False

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        tile = int(image.inputs["pixel_values"].shape[-1])
        side, seen = self.tokens_across_tile(image, tile)
        whole: Rectangle | None = None
        if image.size is None or image.image_processor is None:
            # What is left of the prompt is taken for one image, unless its tokens are
            # of two tiles: one and a copy is what no image makes.
            num_grids = image.remaining_tokens // side**2
            tiles: list[Any] = [None] * (num_grids - 1 if num_grids > 2 else 1)
        else:
            tiles = tile_rectangles(image.size, *self.tile_grid(image), seen)
            whole = tile_rectangles(image.size, 1, 1, seen)[0]
        if len(tiles) == 1:
            return self.placed("full", (side, side), tiles[0])
        named = [("tile", rectangle) for rectangle in tiles]
        named.insert(0 if self.copy_comes_first else len(named), ("global", whole))
        views = tuple(
            View(name, (side, side), rectangle, start=index * side**2)
            for index, (name, rectangle) in enumerate(named)
        )
        return ImageTokens(len(views) * side**2, views)

    @abstractmethod
    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """Image tokens along the side of a tile of so many pixels, and the part of the
        side that they cover."""

    def tile_grid(self, image: PreparedImage) -> Size:
        """Rows and columns of tiles, both 1 where the image is not cut."""
        if not self._setting(image, "crop_to_patches"):
            return 1, 1
        columns, rows = self.columns_and_rows(image)
        return rows, columns

    def columns_and_rows(self, image: PreparedImage) -> Size:
        """Columns and rows of tiles of an image that may be cut."""
        size = self._setting(image, "size")
        columns, rows = function_of(image.image_processor, "get_optimal_tiled_canvas")(
            image.size,
            (size["height"], size["width"]),
            self._setting(image, "min_patches"),
            self._setting(image, "max_patches"),
        )
        return int(columns), int(rows)

    def _setting(self, image: PreparedImage, name: str) -> Any:
        """A setting of the image processor; the processor's own goes before it."""
        of_processor = getattr(image.processor, "images_kwargs", {})
        return of_processor.get(name, getattr(image.image_processor, name))


def _merged(tile: int, patch_size: int, merge: int) -> tuple[int, float]:
    """Tokens across a tile, and the part of it that they cover, where a square of
    ``merge`` x ``merge`` patches makes a token."""
    side = tile // patch_size // merge
    return side, seen_part(side, merge * patch_size, tile)


class InternVLAdapter(_TiledAdapter):
    """Its processor cuts images also where the image processor's setting is not to."""

    name: ClassVar[str] = "InternVL"
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    processor_types: ClassVar[tuple[str, ...]] = ("InternVLProcessor",)

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :class:`_TiledAdapter`."""
        if image.config is None:
            return side_of(int(image.processor.image_seq_length)), 1.0
        vision = image.config.vision_config
        merge = round(1 / image.config.downsample_ratio)
        return _merged(tile, int(vision.patch_size[0]), merge)


class AyaVisionAdapter(_TiledAdapter):
    """Text names each of the tiles, or breaks the line behind it."""

    name: ClassVar[str] = "Aya Vision"
    model_types: ClassVar[tuple[str, ...]] = ("aya_vision",)
    processor_types: ClassVar[tuple[str, ...]] = ("AyaVisionProcessor",)

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :class:`_TiledAdapter`."""
        if image.config is None:
            return self.tokens_by_processor(image.processor), 1.0
        config = image.config
        patch_size = int(config.vision_config.patch_size)
        return _merged(tile, patch_size, int(config.downsample_factor))

    def tokens_by_processor(self, processor: Any) -> int:
        """Tokens across a tile as the processor has it."""
        return int(processor.img_size) // int(processor.patch_size)


class Cohere2VisionAdapter(AyaVisionAdapter):
    """As Aya Vision, with an image processor of its own."""

    name: ClassVar[str] = "Cohere2 Vision (Command A Vision)"
    model_types: ClassVar[tuple[str, ...]] = ("cohere2_vision",)
    processor_types: ClassVar[tuple[str, ...]] = ("Cohere2VisionProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"

    def tokens_by_processor(self, processor: Any) -> int:
        """See :class:`AyaVisionAdapter`; what is called a patch here is a token."""
        return int(processor.patch_size)


class Ovis2Adapter(_TiledAdapter):
    """The copy comes first; tokens between the grids are text that the model replaces.

    A generated indicator token would be replaced too in a pass over prompt and answer,
    but is not in generating, so that the cached pass is the right one.
    """

    name: ClassVar[str] = "Ovis2"
    model_types: ClassVar[tuple[str, ...]] = ("ovis2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Ovis2Processor",)
    copy_comes_first: ClassVar[bool] = True

    def image_token_id(self, processor: Any) -> int:
        """Not ``processor.image_token_id``, which is the placeholder's."""
        return int(processor.tokenizer.convert_tokens_to_ids("<IMG_ATOM>"))

    def tokens_across_tile(self, image: PreparedImage, tile: int) -> tuple[int, float]:
        """See :class:`_TiledAdapter`."""
        if image.config is None:
            return side_of(int(image.processor.image_seq_length)), 1.0
        vision = image.config.vision_config
        return _merged(tile, int(vision.patch_size), int(vision.hidden_stride))

    def columns_and_rows(self, image: PreparedImage) -> Size:
        """See :class:`_TiledAdapter`; there are two ways of choosing."""
        if not self._setting(image, "use_covering_area_grid"):
            return super().columns_and_rows(image)
        columns, rows = function_of(
            image.image_processor, "get_min_tile_covering_grid"
        )(
            image.size,
            target_patch_size=self._setting(image, "size")["height"],
            max_image_tiles=self._setting(image, "max_patches"),
        )
        return int(columns), int(rows)
