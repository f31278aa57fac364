"""The decoding steps of an answer, and the passes in which they are explained."""

from captum_dexar.decoding.model_inputs import complete_inputs, logits_of
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.prompt_cache import new_cache, PromptCache, watched_positions
from captum_dexar.decoding.steps import DecodingSteps
from captum_dexar.decoding.target_ids import (
    check_integers,
    check_vocabulary,
    contrast_tensor,
    ids_of,
    target_tensor,
)

__all__ = [
    "DecodingSteps",
    "ModelPass",
    "PromptCache",
    "check_integers",
    "check_vocabulary",
    "complete_inputs",
    "contrast_tensor",
    "ids_of",
    "logits_of",
    "new_cache",
    "target_tensor",
    "watched_positions",
]
