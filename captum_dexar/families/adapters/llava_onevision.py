"""LLaVA-OneVision."""

from math import sqrt
from typing import Any, ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.shared.tiled_canvas import TiledCanvasAdapter
from captum_dexar.maps.layout import Size


class LlavaOnevisionAdapter(TiledCanvasAdapter):
    """Large canvases are shrunk; the images of a prompt with several are not tiled."""

    name: ClassVar[str] = "LLaVA-OneVision"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    processor_types: ClassVar[tuple[str, ...]] = ("LlavaOnevisionProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end; on shrunk canvases the centres of boxes, as neighbours are mixed; "
        "where patches do not fill a tile, boxes are off by less than a patch"
    )

    def patch_size(self, image: PreparedImage, tile: int) -> int:
        """See :meth:`TiledCanvasAdapter.patch_size`."""
        if image.config is None:
            return tile // side_of(int(image.processor.num_image_tokens))
        return int(image.config.vision_config.patch_size)

    def is_one_square(self, image: PreparedImage) -> bool:
        """See :meth:`TiledCanvasAdapter.is_one_square`."""
        images_of_prompts = image.inputs.get("batch_num_images")
        if images_of_prompts is None:
            return False
        num_images = [int(n) for n in images_of_prompts for _ in range(int(n))]
        return num_images[image.index] > 1

    def shrunk(self, grid: Size, side: int, image: PreparedImage) -> Size:
        """See :meth:`TiledCanvasAdapter.shrunk`; as in ``pack_image_features``."""
        facts = image.processor if image.config is None else image.config
        max_tiles = int(facts.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = sqrt(grid[0] * grid[1] / (max_tiles * side**2))
        if ratio <= 1.1:
            return grid
        rows, columns = int(grid[0] // ratio), int(grid[1] // ratio)
        if not rows or not columns:
            raise ValueError(
                f"The image's canvas of {grid[0]} x {grid[1]} tokens is shrunk to "
                f"{rows} x {columns}, which the model can't process. Crop the image: "
                "it is too thin."
            )
        return rows, columns

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`.

        Several images are passed as those of one prompt, as in the model's training.
        """
        of_prompt = [images] if isinstance(images, list) else images
        return super().process(of_prompt, text, processor)
