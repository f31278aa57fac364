"""Every variant that is checked, as tiny random models of the real classes."""

from tests.families.cases import (
    cross_attention,
    early_fusion,
    gemma,
    idefics3,
    lfm2_llama4,
    llava,
    paligemma,
    patch_grid,
    pixtral,
    tiled_canvas,
    tiles,
)
from tests.helpers.family_case import FamilyCase

CASES: tuple[FamilyCase, ...] = (
    *llava.CASES,
    *tiled_canvas.CASES,
    *tiles.CASES,
    *patch_grid.CASES,
    *pixtral.CASES,
    *idefics3.CASES,
    *gemma.CASES,
    *lfm2_llama4.CASES,
    *paligemma.CASES,
    *cross_attention.CASES,
    *early_fusion.CASES,
)
