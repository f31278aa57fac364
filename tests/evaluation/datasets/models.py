"""Models with processors, small enough to run datasets through."""

import copy
from functools import cache
from typing import Any

import torch
from captum_dexar.letters.processing import VOCABULARY
from captum_dexar.shapes import load_vlm
from tests.families.cases import cross_attention, paligemma
from tests.helpers import plain_prompt_processors
from torch import nn
from transformers import LlavaForConditionalGeneration

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


@cache
def letters_model() -> LlavaForConditionalGeneration:
    """The bundled model's architecture with the words of letters, untrained."""
    config = copy.deepcopy(load_vlm()[0].config)
    config.text_config.vocab_size = len(VOCABULARY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.max_new_tokens = 8
    return model
