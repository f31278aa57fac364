"""PaliGemma and PaliGemma 2, which attend both ways within the prompt."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage, side_of
from captum_dexar.families.geometry import resized_crop
from captum_dexar.families.images_first import ImagesFirstAdapter


class PaliGemmaAdapter(ImagesFirstAdapter):
    """One square grid an image, which is stretched to a square.

    ``token_type_ids`` tell the prompt (0) from the answer (1). The prompt's tokens see
    those behind them, so that none can be run again without the last one.
    """

    name: ClassVar[str] = "PaliGemma, PaliGemma 2"
    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    processor_types: ClassVar[tuple[str, ...]] = ("PaliGemmaProcessor",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "token_type_ids": 1,
    }
    required_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)
    position_offset: ClassVar[int | None] = 1
    replayable: ClassVar[bool] = False

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        height, width = image.inputs["pixel_values"].shape[-2:]
        if image.config is None:
            rows = columns = side_of(image.processor.image_seq_length)
            seen_size = (height, width)
        else:
            patch_size = image.config.vision_config.patch_size
            rows, columns = height // patch_size, width // patch_size
            seen_size = (rows * patch_size, columns * patch_size)
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            rectangle = resized_crop(image.image_processor, image.size, seen_size)
        return self.placed("full", (rows, columns), rectangle)

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`; without the labels for training."""
        made = super().process(images, text, processor)
        made.pop("labels", None)
        return made
