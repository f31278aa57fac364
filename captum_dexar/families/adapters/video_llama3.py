"""Images of VideoLLaMA 3."""

from typing import ClassVar

from captum_dexar.families.base import PreparedImage
from captum_dexar.families.shared.patch_grid import PatchGridAdapter


class VideoLlama3Adapter(PatchGridAdapter):
    """One grid per image, with plain positions and a merge size of its own."""

    name: ClassVar[str] = "VideoLLaMA 3 (images)"
    model_types: ClassVar[tuple[str, ...]] = ("video_llama_3",)
    processor_types: ClassVar[tuple[str, ...]] = ("VideoLlama3Processor",)
    required_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "image_merge_sizes")
    grid_inputs: ClassVar[tuple[str, ...]] = ("image_grid_thw", "image_merge_sizes")

    def merge_size(self, image: PreparedImage) -> int:
        """See :meth:`PatchGridAdapter.merge_size`."""
        return int(image.entry("image_merge_sizes"))
