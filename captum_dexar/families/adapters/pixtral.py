"""Pixtral (a LLaVA with a Pixtral vision tower), Mistral 3, Mistral Large 4 and
LightOnOCR."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import FamilyAdapter, ImageTokens, PreparedImage
from captum_dexar.maps.layout import ImageLayout
from torch import Tensor


class PixtralAdapter(FamilyAdapter):
    """The whole image, resized so that patches fill it; rows end with a text token.

    ``[IMG_BREAK]`` between rows and ``[IMG_END]`` after the last row are ordinary text
    tokens: no image features replace their embeddings. LightOnOCR has none of them.
    """

    name: ClassVar[str] = "Pixtral, Mistral 3, Mistral Large 4, LightOnOCR"
    model_types: ClassVar[tuple[str, ...]] = (
        "llava",
        "mistral3",
        "mistral_large4",
        "lighton_ocr",
    )
    processor_types: ClassVar[tuple[str, ...]] = (
        "PixtralProcessor",
        "LightOnOcrProcessor",
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)
    # One row per image, padded to the largest; a prompt may have several.
    flat_pixels: ClassVar[bool] = True

    def matches(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.matches`."""
        vision = getattr(config, "vision_config", None)
        is_pixtral = getattr(vision, "model_type", None) == "pixtral"
        return is_pixtral and super().matches(config)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        height, width = image.entry("image_sizes")
        side = self._token_side(image.config, image.processor)
        rows, columns = height // side, width // side
        model_type = getattr(image.config, "model_type", None)
        is_mistral = model_type in ("mistral3", "mistral_large4")
        if is_mistral and image.index == 0 == image.remaining_tokens - 1:
            raise ValueError(
                "The image makes a single token, which Mistral 3 and Mistral Large 4 "
                "of transformers can't process. Pass a larger image."
            )
        rectangle = None
        if image.size is not None and not self._is_cropped(image):
            # With resizing off, pixels outside all patches are seen by no token.
            bottom = image.size[0] * rows * side / height
            right = image.size[1] * columns * side / width
            rectangle = (0.0, 0.0, bottom, right)
        return self.placed("full", (rows, columns), rectangle)

    def _is_cropped(self, image: PreparedImage) -> bool:
        """Whether ``image_sizes`` is that of a crop; no checkpoint has this setting."""
        return bool(getattr(image.image_processor, "do_center_crop", None))

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Images smaller than the largest are padded at the bottom and at the right.
        """
        num_images, _, height, width = inputs[self.pixel_input].shape
        token = torch.full((num_images, 1, height, width), -1)
        side = self._token_side(config, None)
        for view in layout.views:
            of_pixel = view.tokens.view(view.grid)
            of_pixel = of_pixel.repeat_interleave(side, 0).repeat_interleave(side, 1)
            rows, columns = of_pixel.shape
            token[view.image, 0, :rows, :columns] = of_pixel
        return token

    def _token_side(self, config: Any, processor: Any) -> int:
        """Pixels of the processed image along one side of an image token."""
        if config is None:
            return int(processor.patch_size * processor.spatial_merge_size)
        merge = getattr(config, "spatial_merge_size", 1)
        return int(config.vision_config.patch_size * merge)
