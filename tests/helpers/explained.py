"""Explaining with either engine, and comparing."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from captum_dexar.decoding import DecodingSteps, StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods.layer_dexar import LayerDexAR
from tests.helpers.in_double import in_double
from torch import nn, Tensor

# Its masks are in float32, whatever the model's precision.
ONLY_IN_FLOAT32 = ("kosmos-2",)


def explained(
    model: nn.Module,
    inputs: dict[str, Any],
    target_ids: Tensor,
    engine: str = "closed_form",
    layers: list[int] | None = None,
    contrast: Tensor | None = None,
    **options: Any,
) -> StepAttributions:
    """All decoding steps of ``target_ids`` ``(batch, steps)``.

    Autograd, the reference for a float32 model, runs in float64 if it can: head weights
    are differences and maps products of gradients, so that its own rounding in float32
    can be larger than the closed form's.
    """
    root: Any = model
    widens = root.config.model_type not in ONLY_IN_FLOAT32
    widens &= next(model.parameters()).dtype == torch.float32
    precision: AbstractContextManager[Any] = nullcontext()
    if engine == "autograd" and widens:
        precision = in_double(root.config.model_type)
        model = copy.deepcopy(model).double()
        inputs = {
            name: value.double() if value.dtype == torch.float32 else value
            for name, value in inputs.items()
        }
    with precision:
        method = LayerDexAR(model, engine=engine)
        if layers is not None:
            some = [method.layer[index] for index in layers]
            method = LayerDexAR(model, some, engine=engine)
        steps = DecodingSteps(Prompt(model, inputs, contrast=contrast), target_ids)
        return method.attribute_steps(steps, **options)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest reference value, which must not be zero."""
    scale = reference.double().abs().max()
    assert scale > 0, "nothing to compare with: the reference is zero"
    return float((value.double() - reference.double()).abs().max() / scale)


def assert_same(
    one: StepAttributions, other: StepAttributions, tolerance: float = 1e-5
) -> None:
    """Equal maps, head weights and log-probabilities; equal token weights."""
    assert relative_error(one.token_attr, other.token_attr) <= tolerance
    assert relative_error(one.layer_attr, other.layer_attr) <= tolerance
    assert relative_error(one.head_weights, other.head_weights) <= tolerance
    scale = float(other.head_weights.max())
    # A reference may be in float64.
    for name, allowed in (
        ("token_weights", tolerance * scale),
        ("token_log_probs", tolerance * 10),
    ):
        value, expected = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(
            value, expected, rtol=tolerance, atol=allowed, check_dtype=False
        )
