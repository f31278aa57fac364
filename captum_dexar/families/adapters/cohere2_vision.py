"""Cohere2 Vision (Command A Vision)."""

from typing import Any, ClassVar

from captum_dexar.families.adapters.aya_vision import AyaVisionAdapter


class Cohere2VisionAdapter(AyaVisionAdapter):
    """As Aya Vision, with an image processor of its own."""

    name: ClassVar[str] = "Cohere2 Vision (Command A Vision)"
    model_types: ClassVar[tuple[str, ...]] = ("cohere2_vision",)
    processor_types: ClassVar[tuple[str, ...]] = ("Cohere2VisionProcessor",)
    boxes_checked: ClassVar[str] = "end to end, where torchvision is installed"

    def tokens_by_processor(self, processor: Any) -> int:
        """See :meth:`AyaVisionAdapter.tokens_by_processor`.

        What the processor calls a patch size is this number of tokens.
        """
        return int(processor.patch_size)
