"""Pix2Struct, whose encoder reads patches that carry their rows and columns."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.image_encoder import ImageEncoderAdapter
from captum_dexar.families.shared.tiles import function_of
from captum_dexar.maps.layout import ImageLayout, Rectangle
from torch import Tensor


class Pix2StructAdapter(ImageEncoderAdapter):
    """One grid of patches over the whole image, which keeps its shape as far as the
    number of patches allows. Unused patches follow, and are no image tokens.

    Each patch begins with its row and column, counted from one.
    """

    name: ClassVar[str] = "Pix2Struct"
    model_types: ClassVar[tuple[str, ...]] = ("pix2struct",)
    processor_types: ClassVar[tuple[str, ...]] = ("Pix2StructProcessor",)
    pixel_input: ClassVar[str] = "flattened_patches"
    required_inputs: ClassVar[tuple[str, ...]] = ("attention_mask",)
    cross_attention: ClassVar[str | None] = "encoder_decoder_attention.attention"

    def probabilities_at_softmax(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.probabilities_at_softmax`; attention modules return
        their position bias in the place of the probabilities."""
        return True

    def num_states(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`ImageEncoderAdapter.num_states`."""
        counts = (inputs[self.pixel_input][:, :, 0] != 0).sum(1).tolist()
        if len(set(counts)) > 1:
            raise ValueError(
                "All examples of a batch must have the same number of patches, got "
                f"{counts}."
            )
        return int(counts[0])

    def num_image_tokens(
        self, inputs: Mapping[str, Any], processor: Any, config: Any
    ) -> int:
        """See :meth:`FamilyAdapter.num_image_tokens`."""
        return self.num_states(inputs, config)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        places = image.inputs[self.pixel_input][0, :, :2]
        rows, columns = (int(places[:, axis].max()) for axis in (0, 1))
        rectangle = image.whole()
        if rectangle is not None and getattr(image.image_processor, "is_vqa", False):
            rectangle = _below_header(image.image_processor, rectangle)
        return self.placed("full", (rows, columns), rectangle)

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Raises:
            TypeError: Always: with its pixels a patch would lose its place.
        """
        raise self.unknown_pixels(inputs[self.pixel_input].shape)

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`.

        The question is the beginning of the answer, or what the processor writes above
        the image.
        """
        if processor.image_processor.is_vqa:
            return processor(images=images, text=text, return_tensors="pt")
        return super().process(images, text, processor)


def _below_header(image_processor: Any, image: Rectangle) -> Rectangle:
    """The picture of the image with the question above it, in pixels of the image."""
    header = image_processor.header_text
    header = header[0] if isinstance(header, list) else header
    font = {
        name: getattr(image_processor, name, None)
        for name in ("font_bytes", "font_path")
    }
    written = function_of(image_processor, "render_text")(header, **font)
    written_width, written_height = _width_and_height(written)
    _, _, height, width = image
    # Whichever is narrower is stretched to the width of the other.
    shared = max(written_width, int(width))
    below = int(int(height) * (shared / int(width)))
    above = int(written_height * (shared / written_width))
    return (-above * height / below, 0.0, height, width)


def _width_and_height(picture: Any) -> tuple[int, int]:
    if hasattr(picture, "width"):
        return picture.width, picture.height
    return int(picture.shape[-1]), int(picture.shape[-2])
