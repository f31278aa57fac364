"""The model that ships with the package."""

from pathlib import Path

from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor
from transformers.utils import logging

VLM_FOLDER = Path(__file__).parent / "vlm"


def load_vlm() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Loads the bundled vision-language model; no network is needed.

    A ``LlavaForConditionalGeneration`` with 1.3 M parameters, trained on scenes like
    those of :func:`make_scene`. The model card, ``vlm/README.md`` in this folder,
    describes its training, abilities and limits.

    Returns:
        *tuple* of LlavaForConditionalGeneration and LlavaProcessor: a new model, in
        eval mode, float32, on the CPU, and its processor

    Examples::

        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> prompt = "USER: <image>\\ndescribe the image . ASSISTANT:"
        >>> image = make_scene(7).image
        >>> inputs = processor(images=image, text=prompt, return_tensors="pt")
        >>> ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        >>> answer = processor.decode(ids, skip_special_tokens=True)
    """
    # Loading takes a moment only.
    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = LlavaForConditionalGeneration.from_pretrained(
            VLM_FOLDER, local_files_only=True
        )
    finally:
        if shows_progress:
            logging.enable_progress_bar()
    # The default backend depends on torchvision and would change the pixels.
    processor = AutoProcessor.from_pretrained(
        VLM_FOLDER, local_files_only=True, backend="pil"
    )
    return model.eval(), processor
