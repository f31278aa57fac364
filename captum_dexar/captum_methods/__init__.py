"""Running Captum's own methods over the steps of an answer."""

from captum_dexar.captum_methods.registry import (
    extra_arguments,
    model_of,
    name_of,
    run_captum_method,
)
from captum_dexar.captum_methods.request import StepRequest, StepScores

__all__ = [
    "StepRequest",
    "StepScores",
    "extra_arguments",
    "model_of",
    "name_of",
    "run_captum_method",
]
