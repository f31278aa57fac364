"""Florence-2, whose decoder attends to an encoder of image and prompt."""

from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.families.shared.plain_prompt import SingleImageAdapter
from captum_dexar.maps.layout import Size, View


class Florence2Adapter(SingleImageAdapter):
    """The mean of all image features, then one grid over the image.

    Keys are positions of the encoder's output, where self-attention has already mixed
    image and prompt.
    """

    name: ClassVar[str] = "Florence-2"
    model_types: ClassVar[tuple[str, ...]] = ("florence2",)
    processor_types: ClassVar[tuple[str, ...]] = ("Florence2Processor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the vision tower's attention and blocks silenced"
    )
    steps_run_on: ClassVar[str] = "the encoder's output"
    # Positions are absolute, and padding counts.
    can_be_batched: ClassVar[bool] = False
    cross_attention: ClassVar[str | None] = "encoder_attn"

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        size = tuple(int(side) for side in image.inputs["pixel_values"].shape[-2:])
        if image.config is None:
            rows = columns = side_of(image.processor.num_image_tokens - 1)
        else:
            vision = image.config.vision_config
            rows, columns = size
            for kernel, stride, padding in zip(
                vision.patch_size, vision.patch_stride, vision.patch_padding
            ):
                rows = (rows + 2 * padding - kernel) // stride + 1
                columns = (columns + 2 * padding - kernel) // stride + 1
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            rectangle = resized_crop(
                image.image_processor, image.size, (size[0], size[1])
            )
        # The first token is the mean over the whole image.
        view = View("full", (rows, columns), rectangle, start=1)
        return ImageTokens(1 + view.num_tokens, (view,))

    def pixel_patch(self, config: Any) -> Size | None:
        """See :meth:`FamilyAdapter.pixel_patch`; patches differ between stages."""
        return None
