"""FastVLM."""

from typing import ClassVar

from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.resizing import resized_crop


class FastVlmAdapter(FamilyAdapter):
    """One grid per image, as for LLaVA, without a class token.

    The configuration of its convolutional vision tower has no patch size: that of the
    processor is the number of pixels along the side of a token. The processor is
    LLaVA's, so that it is not known by its name.
    """

    name: ClassVar[str] = "FastVLM"
    model_types: ClassVar[tuple[str, ...]] = ("fast_vlm",)
    processor_types: ClassVar[tuple[str, ...]] = ()
    shared_processors: ClassVar[tuple[str, ...]] = ("LlavaProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end, with a tower without overlap in place of timm's, whose "
        "convolutions see far more than a box, centred half a box above and to the left"
    )

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        seen_size = tuple(image.inputs[self.pixel_input].shape[-2:])
        if image.processor is None:
            rows = columns = side_of(int(image.config.image_seq_length))
        else:
            patch = int(image.processor.patch_size)
            rows, columns = seen_size[0] // patch, seen_size[1] // patch
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            rectangle = resized_crop(image.image_processor, image.size, seen_size)
        return self.placed("full", (rows, columns), rectangle)
