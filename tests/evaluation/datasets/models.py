"""Models with processors, small enough to run datasets through."""

from functools import cache
from typing import Any

from captum_dexar.shapes import load_vlm
from tests.families.cases import cross_attention, paligemma
from tests.helpers import plain_prompt_processors
from torch import nn

NAMES = ("bundled", "paligemma", "florence2")
SHORT = {"max_new_tokens": 3, "do_sample": False}


@cache
def model_and_processor(name: str) -> tuple[nn.Module, Any]:
    """The bundled model, or a tiny one of a family."""
    if name == "bundled":
        return load_vlm()
    if name == "paligemma":
        model = paligemma.build(1, 0, "sdpa")
        return model, plain_prompt_processors.paligemma_processor()
    model = cross_attention.build_florence2(0, "sdpa")
    return model, plain_prompt_processors.florence2_processor()
