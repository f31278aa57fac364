"""Generation, decoding steps, and the forward passes that cover them."""

from captum_dexar.decoding.generation import answer_lengths, generate, GeneratedAnswer
from captum_dexar.decoding.generation_progress import (
    generation_progress,
    OnlineWithProgress,
)
from captum_dexar.decoding.generation_settings import GenerationSettings
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.prompt_cache import PromptCache
from captum_dexar.decoding.raw_logits import check_log_probs
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.decoding.steps import DecodingSteps
from captum_dexar.decoding.streaming import streamed

__all__ = [
    "DecodingSteps",
    "GeneratedAnswer",
    "GenerationSettings",
    "ModelPass",
    "OnlineWithProgress",
    "PromptCache",
    "StepAttributions",
    "answer_lengths",
    "check_log_probs",
    "generate",
    "generation_progress",
    "streamed",
]
