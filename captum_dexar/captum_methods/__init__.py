"""Runs Captum's own methods over the decoding steps of an answer.

Random methods (GradientShap, NoiseTunnel, ShapleyValueSampling, KernelShap, Lime) use
the global generators of torch and NumPy, so ``torch.manual_seed`` and
``numpy.random.seed`` make results reproducible. Every step gets the same random draws.
The generators advance as if a single step had been explained.
"""

from captum_dexar.captum_methods.captum_method import (
    as_step_method,
    CaptumMethod,
    method_name,
)

__all__ = ["CaptumMethod", "as_step_method", "method_name"]
