"""Every variant that is checked, as tiny random models of the real classes."""

from tests.families.cases import (
    anyres,
    cross_attention,
    early_fusion,
    gemma,
    grid_thw,
    idefics,
    lfm2_llama4,
    llava,
    paligemma,
    pixtral,
    tiled,
)
from tests.helpers.family_case import FamilyCase

CASES: tuple[FamilyCase, ...] = (
    *llava.CASES,
    *anyres.CASES,
    *tiled.CASES,
    *grid_thw.CASES,
    *pixtral.CASES,
    *idefics.CASES,
    *gemma.CASES,
    *lfm2_llama4.CASES,
    *paligemma.CASES,
    *cross_attention.CASES,
    *early_fusion.CASES,
)
