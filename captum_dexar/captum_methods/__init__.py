"""Running Captum's own methods over the steps of an answer.

Random methods (GradientShap, NoiseTunnel, ShapleyValueSampling, KernelShap, Lime) draw
from the generators of torch and NumPy as they stand, so that ``torch.manual_seed`` and
``numpy.random.seed`` make a result repeatable. Every step is given the same draws;
afterwards the generators are where explaining a single step would have left them. All
other methods leave them as they are.
"""

from captum_dexar.captum_methods.captum_method import (
    as_step_method,
    CaptumMethod,
    method_name,
)

__all__ = ["CaptumMethod", "as_step_method", "method_name"]
