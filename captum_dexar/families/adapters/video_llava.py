"""Video-LLaVA, for images."""

from typing import ClassVar

from captum_dexar.families.adapters.llava import LlavaAdapter


class VideoLlavaAdapter(LlavaAdapter):
    """As LLaVA-1.5; the processor has another name for the pixels of images."""

    name: ClassVar[str] = "Video-LLaVA (images)"
    model_types: ClassVar[tuple[str, ...]] = ("video_llava",)
    processor_types: ClassVar[tuple[str, ...]] = ("VideoLlavaProcessor",)
    pixel_input: ClassVar[str] = "pixel_values_images"
