"""PaliGemma and PaliGemma 2, whose attention is bidirectional within the prompt."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.families.prompt_reuse import Reuse
from captum_dexar.families.shared.plain_prompt import PlainPromptAdapter


class PaliGemmaAdapter(PlainPromptAdapter):
    """One square grid per image, which is stretched to a square.

    ``token_type_ids`` distinguish the prompt (0) from the answer (1). Prompt tokens see
    later ones, even beyond the window of a layer with sliding attention; a pass on a
    cache sees no farther than the window.
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
    prompt_is_bidirectional: ClassVar[bool] = True
    steps_run_on: ClassVar[str] = (
        "a cache of the prompt; one full pass if the prompt is longer than a window"
    )

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """See :meth:`FamilyAdapter.reuse`."""
        window = getattr(config.get_text_config(), "sliding_window", None)
        if window is not None and inputs["input_ids"].shape[1] > window:
            return "full_pass"
        return super().reuse(inputs, config)

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
        """See :meth:`FamilyAdapter.process`; labels for training are left out."""
        inputs = super().process(images, text, processor)
        inputs.pop("labels", None)
        return inputs
