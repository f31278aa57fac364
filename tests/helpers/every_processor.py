"""One real processor of each kind that can be built offline, by name."""

from collections.abc import Callable
from typing import Any

from tests.families.cases import cross_attention
from tests.helpers import (
    idefics3_gemma_processors as tiled,
    patch_grid_processors as grids,
    plain_prompt_processors as plain,
    processors as llava,
    tile_processors as tiles,
)
from torch import nn

# Processors with a chat template.
CHAT_PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": llava.llava_processor,
    "idefics3": tiled.idefics_processor,
    "smolvlm": lambda: tiled.idefics_processor("smolvlm"),
    "gemma3": tiled.gemma3_processor,
    "gemma4": tiled.gemma4_processor,
    "llava_next": tiles.llava_next_processor,
    "llava_onevision": tiles.llava_onevision_processor,
    "internvl": tiles.internvl_processor,
    "aya_vision": tiles.aya_vision_processor,
    "cohere2_vision": tiles.cohere2_vision_processor,
    "ovis2": tiles.ovis2_processor,
    "qwen2_vl": lambda: grids.grid_processor("qwen2_vl"),
    "qwen3_vl": lambda: grids.grid_processor("qwen3_vl"),
    "glm4v": lambda: grids.grid_processor("glm4v"),
    "glm46v": lambda: grids.grid_processor("glm46v"),
    "video_llama_3": lambda: grids.grid_processor("video_llama_3"),
}
PLAIN_PROCESSORS: dict[str, Callable[[], Any]] = {
    "paligemma": plain.paligemma_processor,
    "florence2": plain.florence2_processor,
    "mllama": plain.mllama_processor,
    "fuyu": plain.fuyu_processor,
    "chameleon": plain.chameleon_processor,
}
PROCESSORS = {**CHAT_PROCESSORS, **PLAIN_PROCESSORS}


def model_needed(name: str) -> nn.Module | None:
    """The model, where the processor alone does not know the number of tokens."""
    return cross_attention.build_mllama(0, "sdpa") if name == "mllama" else None
