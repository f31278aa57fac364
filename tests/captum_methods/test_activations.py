"""Methods that replace the gradients of activations, on models of ReLU modules."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import (
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GradientAttribution,
    GuidedBackprop,
    InputXGradient,
    NoiseTunnel,
    Saliency,
)
from captum_dexar import VLMAttribution, VLMForward
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from tests.families.cases import CASES
from tests.helpers.explained import relative_error
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor
from transformers.activations import ACT2CLS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
]
TARGETS = [40, 7, 61]
LLAVA = next(case for case in CASES if case.name == "llava")
METHODS = (DeepLift, GuidedBackprop, Deconvolution)
ACTIVATIONS = tuple(
    kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()
)


def activations_of(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, ACTIVATIONS)
    ]


def with_activations(make: Callable[[], nn.Module]) -> tuple[Any, dict[str, Any]]:
    """A tiny LLaVA all of whose activations are modules that ``make`` makes."""
    model, inputs = LLAVA.model(3, "sdpa"), LLAVA.inputs(3, 3)
    for module, name in activations_of(model):
        setattr(module, name, make())
    return warm(model.eval(), inputs), inputs


def explained(method: Any, model: Any, inputs: Any, **arguments: Any) -> Tensor:
    attribute = VLMAttribution(method(VLMForward(model))).attribute
    return attribute(inputs, target=TARGETS, **arguments).token_attr


class Replaced(torch.autograd.Function):
    """ReLU with the gradient of Guided Backprop or of Deconvolution."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, guided: bool) -> Tensor:
        ctx.save_for_backward(values)
        ctx.guided = guided
        return values.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        positive = gradient.relu()
        return (positive * (values > 0) if ctx.guided else positive), None


class ReplacedReLU(nn.Module):
    def __init__(self, guided: bool) -> None:
        super().__init__()
        self.guided = guided

    def forward(self, values: Tensor) -> Tensor:
        replaced: Any = Replaced
        return replaced.apply(values, self.guided)


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvolution])
def test_values_are_those_of_replaced_gradients(method: Any) -> None:
    """The same gradients, written as an autograd function in place of every ReLU."""
    model, inputs = with_activations(nn.ReLU)
    with untouched(model):
        attribution = explained(method, model, inputs)
    literal = copy.deepcopy(model)
    for module, name in activations_of(literal):
        setattr(module, name, ReplacedReLU(method is GuidedBackprop).eval())
    expected = explained(Saliency, literal, inputs, abs=False)
    assert relative_error(attribution, expected) <= 1e-5
    plain = explained(Saliency, model, inputs, abs=False)
    assert relative_error(attribution, plain) > 1e-2


def test_noise_around_them() -> None:
    model, inputs = with_activations(nn.ReLU)
    tunnel = NoiseTunnel(GuidedBackprop(VLMForward(model)))
    result = VLMAttribution(tunnel).attribute(
        inputs, target=TARGETS, stdevs=1e-6, nt_samples=2
    )
    plain = explained(GuidedBackprop, model, inputs)
    assert relative_error(result.token_attr, plain) <= 1e-3


class Rescaled(torch.autograd.Function):
    """ReLU of an example and its baseline, with the multipliers of DeepLift."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        before, after = values[0] - values[1], values.relu()[0] - values.relu()[1]
        is_same = before.abs() < 1e-10
        slope = after / before.masked_fill(is_same, 1.0)
        return gradient * torch.where(is_same, (values > 0).float(), slope)


class RescaledReLU(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        rescaled: Any = Rescaled
        return rescaled.apply(values)


class LiteralDeepLift(GradientAttribution):
    """Input times multiplier, for a model whose ReLUs are ``RescaledReLU``."""

    def attribute(self, inputs: Tensor) -> Tensor:
        both = torch.cat([inputs, torch.zeros_like(inputs)]).detach().requires_grad_()
        with torch.enable_grad():
            score = self.forward_func(both)[0]
        (multiplier,) = torch.autograd.grad(score, both)
        return inputs * multiplier[:1]


def test_deep_lift_is_input_times_multiplier() -> None:
    model, inputs = with_activations(nn.ReLU)
    with untouched(model):
        attribution = explained(DeepLift, model, inputs)
    literal = copy.deepcopy(model)
    for module, name in activations_of(literal):
        setattr(module, name, RescaledReLU().eval())
    expected = explained(LiteralDeepLift, literal, inputs)
    assert relative_error(attribution, expected) <= 1e-5
    product = explained(InputXGradient, model, inputs)
    assert relative_error(attribution, product) > 1e-2


@pytest.mark.parametrize("make", [nn.ReLU, nn.Tanh, nn.ELU])
def test_the_delta_is_what_the_sum_lacks(make: Callable[[], nn.Module]) -> None:
    """Attention and norms have no rule, so DeepLift is not complete here."""
    model, inputs = with_activations(make)
    result = VLMAttribution(DeepLift(VLMForward(model))).attribute(
        inputs, target=TARGETS, return_convergence_delta=True
    )
    steps = DecodingSteps(Prompt(model, inputs), torch.tensor([TARGETS]))
    black = {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}
    without = DecodingSteps(Prompt(model, black), torch.tensor([TARGETS]))
    with torch.no_grad():
        change = steps.full_pass().logits() - without.full_pass().logits()
    delta = result.token_attr.sum(1) - change[0, range(3), TARGETS]
    assert relative_error(result.convergence_delta, delta) <= 1e-3


def test_deep_lift_shap_is_the_mean_over_baselines() -> None:
    model, inputs = with_activations(nn.ReLU)
    shape = (2, *inputs["pixel_values"].shape[1:])
    baselines = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with untouched(model):
        both = explained(DeepLiftShap, model, inputs, baselines=baselines)
    single = [
        explained(DeepLift, model, inputs, baselines=baselines[index : index + 1])
        for index in range(2)
    ]
    assert relative_error(both, (single[0] + single[1]) / 2) <= 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_the_modules_is_refused(method: Any) -> None:
    model, inputs = with_activations(nn.GELU)
    with (
        untouched(model),
        pytest.raises(NotImplementedError, match=f"^{method.__name__} .*has none"),
    ):
        explained(method, model, inputs)


class FunctionalReLU(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.relu(values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("make", "name"), [(nn.SiLU, "Silu"), (FunctionalReLU, "Relu"), (nn.GELU, "Gelu")]
)
def test_one_other_activation_is_enough_to_refuse(
    method: Any, make: Callable[[], nn.Module], name: str
) -> None:
    """A module or a function, in any layer: there these methods would silently take
    the plain gradient."""
    model, inputs = with_activations(nn.ReLU)
    places = activations_of(model)
    for place in (places[0], places[-1]):
        setattr(*place, make().eval())
        with (
            untouched(model),
            pytest.raises(NotImplementedError, match=f"model also computes {name}"),
        ):
            explained(method, model, inputs)
        setattr(*place, nn.ReLU().eval())


@pytest.mark.parametrize("method", METHODS)
def test_modules_that_are_not_run_do_not_count(method: Any) -> None:
    model, inputs = with_activations(nn.GELU)
    model.unused = nn.ReLU().eval()
    with pytest.raises(NotImplementedError, match="model also computes Gelu"):
        explained(method, model, inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_family_as_published_has_only_relu_modules(case: Any) -> None:
    if case.name.startswith("chameleon"):
        pytest.skip("no gradient leads to its pixels")
    model, inputs = case.model(3, case.implementations[0]), case.inputs(3, 3)
    if case.name == "udop":
        pytest.skip("T5 has no other: see the test below")
    for method in METHODS:
        with pytest.raises(NotImplementedError, match=method.__name__):
            explained(method, model, inputs, places=case.places)


@pytest.mark.parametrize("method", METHODS)
def test_udop_as_published_has_only_relu_modules(method: Any) -> None:
    case = next(case for case in CASES if case.name == "udop")
    model, inputs = case.model(3, case.implementations[0]), case.inputs(3, 3)
    kinds = {type(getattr(module, name)) for module, name in activations_of(model)}
    assert kinds == {nn.ReLU}
    maps = explained(method, model, inputs)
    assert maps.isfinite().all() and maps.any(1).all()
