"""Running Captum's own methods over the steps of an answer.

Random methods (GradientShap, NoiseTunnel, ShapleyValueSampling, KernelShap, Lime) draw
from the generators of torch and NumPy as they stand, so that ``torch.manual_seed`` and
``numpy.random.seed`` make a result repeatable. Every step is given the same draws;
afterwards the generators are where explaining a single step would have left them. All
other methods leave them as they are.
"""

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
