"""LLaVA-1.5, BakLLaVA with and without a sliding window, ViP-LLaVA."""

from functools import partial
from typing import Any

from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm, VARIANTS
from torch import nn


def build(variant: str, seed: int, implementation: str) -> nn.Module:
    return tiny_vlm(variant, seed, attn_implementation=implementation)


def inputs(seed: int, before: int) -> dict[str, Any]:
    return dict(prompt_inputs(seed, before=before))


CASES = tuple(
    FamilyCase(variant, partial(build, variant), inputs) for variant in VARIANTS
)
