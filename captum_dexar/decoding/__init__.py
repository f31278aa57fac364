"""The decoding steps of an answer, and the passes in which they are explained."""

from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.prompt_cache import new_cache, PromptCache, watched_positions
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.decoding.steps import DecodingSteps

__all__ = [
    "DecodingSteps",
    "ModelPass",
    "PromptCache",
    "StepAttributions",
    "new_cache",
    "watched_positions",
]
