"""Generation, decoding steps, and the forward passes that cover them."""

from captum_dexar.decoding.generation import answer_lengths, generate, GeneratedAnswer
from captum_dexar.decoding.generation_progress import (
    generation_progress,
    OnlineWithProgress,
)
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.prompt_cache import new_cache, PromptCache, watched_positions
from captum_dexar.decoding.step_attributions import (
    NotRecorded,
    OnlineAttribution,
    StepAttributions,
)
from captum_dexar.decoding.steps import DecodingSteps
from captum_dexar.decoding.streaming import streamed

__all__ = [
    "DecodingSteps",
    "GeneratedAnswer",
    "ModelPass",
    "NotRecorded",
    "OnlineAttribution",
    "OnlineWithProgress",
    "PromptCache",
    "StepAttributions",
    "answer_lengths",
    "generate",
    "generation_progress",
    "new_cache",
    "streamed",
    "watched_positions",
]
