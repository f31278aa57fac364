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
    queries,
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
    *queries.CASES,
)
# One of each kind of decoder, cache and layout: what is tested in many ways is tested
# on these, and the others differ from them in facts that are tested on every case.
_DISTINCT = (
    "llava",
    "bakllava_sliding",
    "llava_next",
    "internvl",
    "aya_vision",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "glm4v",
    "pixtral",
    "idefics3",
    "gemma3",
    "gemma4_shared_kv",
    "gemma4_bidirectional",
    "lfm2_vl",
    "llama4",
    "paligemma2",
    "florence2",
    "mllama",
    "fuyu",
    "chameleon",
)
DISTINCT = tuple(case for case in CASES if case.name in _DISTINCT)
assert len(DISTINCT) == len(_DISTINCT)
