"""Real processors of families with a patch grid, built without torchvision."""

from typing import Any

from tests.families.cases.patch_grid import FIRST_SPECIAL, MERGE, PATCH
from tests.helpers.processors import word_tokenizer
from transformers import (
    Glm46VProcessor,
    Glm4vProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    VideoLlama3Processor,
)
from transformers.models.glm46v.image_processing_pil_glm46v import (
    Glm46VImageProcessorPil,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import (
    VideoLlama3ImageProcessorPil,
)

VISION_START, VISION_END = f"word{FIRST_SPECIAL + 1}", f"word{FIRST_SPECIAL + 2}"
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    f"{{% if part['type'] == 'image' %}}{VISION_START}<image>{VISION_END} "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLImageProcessorPil),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil),
    "qwen3_vl": (Qwen3VLProcessor, Qwen2VLImageProcessorPil),
    # Qwen3.5 has no processor class of its own.
    "qwen3_5": (Qwen3VLProcessor, Qwen2VLImageProcessorPil),
    "glm4v": (Glm4vProcessor, Glm4vImageProcessorPil),
    "glm46v": (Glm46VProcessor, Glm46VImageProcessorPil),
    "video_llama_3": (VideoLlama3Processor, VideoLlama3ImageProcessorPil),
}
# Smallest and largest area, times two where frames are counted.
SIZE = {"shortest_edge": 40 * 40, "longest_edge": 100 * 100}


class WithoutVideo:
    """Takes None for the video processor, which can't be built without torchvision."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> type:
        return type(argument)


def grid_processor(family: str, **image_settings: Any) -> Any:
    """The processor of a family's tiny model.

    Args:
        family: a key of ``CLASSES``
        image_settings: arguments of the image processor
    """
    processor_class, image_class = CLASSES[family]
    settings: dict[str, Any] = {"patch_size": PATCH, "size": SIZE}
    if family != "video_llama_3":
        settings |= {"merge_size": MERGE, "temporal_patch_size": 2}
    if family.startswith("glm"):
        settings["size"] = {name: 2 * area for name, area in SIZE.items()}
    tokenizer: Any = word_tokenizer()
    tokenizer.video_token = f"word{FIRST_SPECIAL}"
    named = type(processor_class.__name__, (WithoutVideo, processor_class), {})
    processor: Any = named(
        image_processor=image_class(**{**settings, **image_settings}),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=CHAT_TEMPLATE,
    )
    return processor
