"""DeepSeek-VL with a second vision tower for a large copy of the image."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.adapters.deepseek_vl import DeepseekVLAdapter
from captum_dexar.families.base import PreparedImage
from captum_dexar.families.geometry.resizing import resized_and_padded
from captum_dexar.maps.layout import ImageLayout, Rectangle
from torch import Tensor


class DeepseekVLHybridAdapter(DeepseekVLAdapter):
    """Features of SigLIP and, for a larger copy of the image, of SAM are joined."""

    name: ClassVar[str] = "DeepSeek-VL (two vision towers)"
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_vl_hybrid",)
    processor_types: ClassVar[tuple[str, ...]] = ("DeepseekVLHybridProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end; convolutions after SAM also see what is up to a box away, most of "
        "it above and to the left"
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("high_res_pixel_values",)

    def whole_picture(self, image: PreparedImage) -> Rectangle:
        """See :meth:`DeepseekVLAdapter.whole_picture`.

        The small copy is made of the large one, which is padded already. Images that
        are not resized are not padded either.
        """
        assert image.size is not None
        settings = image.image_processor
        if not settings.do_resize:
            return (0.0, 0.0, float(image.size[0]), float(image.size[1]))
        side = settings.high_res_size["height"]
        return resized_and_padded(settings, image.size, side)

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`."""
        raise TypeError(
            f"{self.name} sees the image in two inputs, {self.pixel_input} and "
            "high_res_pixel_values, so that an attribution of one of them is not that "
            "of the image. Use a method on the image tokens' boxes (FeatureAblation "
            "with an ImagePromptInput) or on layers."
        )
