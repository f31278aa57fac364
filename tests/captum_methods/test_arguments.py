"""Every argument of Captum's methods works or is refused; none is ignored."""

from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr import (
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from captum_dexar import ImagePromptInput, VLMAttribution, VLMForward
from captum_dexar.captum_methods.arguments import REFUSED_ARGUMENTS
from captum_dexar.captum_methods.supported import EXPLAINED, LAYER, PARTS, PIXELS
from tests.captum_methods.test_activations import activations_of
from tests.helpers.blocks import dark_image
from tests.helpers.explained import relative_error
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import tiny_vlm
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
    pytest.mark.filterwarnings("ignore:You are providing multiple inputs"),
    pytest.mark.filterwarnings("ignore:Internal batch size"),
]
TARGETS = [40, 7]
BLACK = torch.zeros(2, 3, 32, 32)
METHODS = ("noisy gradients", *EXPLAINED)


def made(name: str) -> Any:
    """A method, on a model whose activations all have rules."""
    model, _, _ = world()
    forward, layer = VLMForward(model), model.model.multi_modal_projector
    if name == "NoiseTunnel":
        return NoiseTunnel(Saliency(forward))
    if name == "noisy gradients":
        return NoiseTunnel(IntegratedGradients(forward))
    method: Any = getattr(captum.attr, name)
    is_layer = EXPLAINED[name][0] == LAYER
    return method(forward, layer) if is_layer else method(forward)


@lru_cache
def world() -> tuple[Any, Any, ImagePromptInput]:
    model: Any = tiny_vlm(seed=3)
    for module, name in activations_of(model):
        setattr(module, name, torch.nn.ReLU().eval())
    processor = llava_processor()
    inp = ImagePromptInput(dark_image(40, 56), "what is it", processor, model)
    return model, processor, inp


def explained(name: Any, **arguments: Any) -> Any:
    _, processor, inp = world()
    method = made(name) if isinstance(name, str) else name
    if has(method, "n_steps"):
        arguments.setdefault("n_steps", 4)
    torch.manual_seed(0)
    np.random.seed(0)
    wrapped = VLMAttribution(method, processor)
    return wrapped.attribute(inp, target=TARGETS, **arguments)


def has(method: Any, argument: str) -> bool:
    methods = [method, getattr(method, "attribution_method", method)]
    return any(argument in signature(one.attribute).parameters for one in methods)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("argument", [*REFUSED_ARGUMENTS, "nonsense", "kwargs"])
def test_what_is_set_here_or_unknown_is_refused(name: str, argument: str) -> None:
    if argument == "target":
        return  # the answer: an argument of VLMAttribution.attribute
    value = False if argument == "attr_dim_summation" else 1
    if has(made(name), argument) and argument != "kwargs":
        expected = f"can't take {argument} here: {REFUSED_ARGUMENTS[argument][:20]}"
    else:
        expected = f"has no argument {argument}; it has "
    with pytest.raises(TypeError, match=expected):
        explained(name, **{argument: value})


WRONG: dict[str, list[tuple[Any, type[Exception], str]]] = {
    count: [
        (0, ValueError, f"{count} must be positive, got 0"),
        (-1, ValueError, f"{count} must be positive, got -1"),
        (2.5, TypeError, f"{count} must be a whole number, got 2.5"),
        (True, TypeError, f"{count} must be a whole number, got True"),
        ("a", TypeError, f"{count} must be a whole number, got 'a'"),
    ]
    for count in (
        "n_steps",
        "n_samples",
        "internal_batch_size",
        "perturbations_per_eval",
        "nt_samples",
        "nt_samples_batch_size",
        "steps_per_batch",
    )
}
WRONG |= {
    flag: [
        (1, TypeError, f"{flag} must be True or False, got 1"),
        ("no", TypeError, f"{flag} must be True or False, got 'no'"),
    ]
    for flag in (
        "abs",
        "draw_baseline_from_distrib",
        "relu_attributions",
        "return_convergence_delta",
        "return_input_shape",
        "show_progress",
    )
}
WRONG |= {
    "method": [("simpson", ValueError, "one of riemann_left, .* got 'simpson'")],
    "nt_type": [("smooth", ValueError, "one of smoothgrad, .* got 'smooth'")],
    "stdevs": [
        (-0.1, ValueError, "stdevs must be finite and not negative, got -0.1"),
        (float("nan"), ValueError, "stdevs must be finite"),
        ((0.1, 0.2), TypeError, "stdevs must be a number"),
        ("a", TypeError, "stdevs must be a number"),
    ],
    "grad_kwargs": [(1, TypeError, "grad_kwargs must be a mapping, got int")],
    "strides": [
        (0, ValueError, "strides must be positive, got 0"),
        ((1, 2, 3), TypeError, "strides must be two whole numbers"),
        (9, ValueError, "Stride dimension 9 cannot be larger"),
    ],
    "sliding_window_shapes": [
        (2, TypeError, "sliding_window_shapes must be two whole numbers"),
        ((3, 2, 2), TypeError, "sliding_window_shapes must be two whole numbers"),
        ((0, 2), ValueError, "sliding_window_shapes must be positive"),
        ((9, 9), ValueError, "Sliding window dimensions .* cannot exceed"),
    ],
    "custom_attribution_func": [],
}
PATCHES: list[tuple[Any, type[Exception], str]] = [
    ((2,), TypeError, r"patches must be two whole numbers, .* got \(2,\)"),
    (3, TypeError, "patches must be two whole numbers, .* got 3"),
    ((2.0, 2), TypeError, "patches must be two whole numbers"),
    ((0, 2), ValueError, "patches must be positive"),
    ((41, 2), ValueError, "patches must be rows and columns of an image of 40 x 56"),
]
BASELINES: list[tuple[Any, type[Exception], str]] = [
    ("black", TypeError, "baselines must be a number or a tensor .* got str"),
    (True, TypeError, "baselines must be a number or a tensor .* got bool"),
    ((0, 0), ValueError, "baselines must be one, for the model's pixels, got 2"),
    (float("nan"), ValueError, "baselines must be finite"),
    (BLACK + float("inf"), ValueError, "baselines must be finite"),
    (BLACK[0], ValueError, r"shape of the model's pixels, \(1, 3, 32, 32\)"),
    (BLACK[..., :31], ValueError, r"got \(2, 3, 32, 31\)"),
    (torch.zeros(3, 1, 3, 32, 32), ValueError, r"got \(3, 1, 3, 32, 32\)"),
]


def wrong_of(name: str) -> dict[str, list[tuple[Any, type[Exception], str]]]:
    wrong = {
        argument: cases
        for argument, cases in WRONG.items()
        if has(made(name), argument)
    }
    kind = EXPLAINED.get(name, (PIXELS, ""))[0]
    if kind == PARTS:
        wrong["patches"] = PATCHES
    elif has(made(name), "baselines"):
        wrong["baselines"] = BASELINES
    if name in ("IntegratedGradients", "InputXGradient", "Saliency"):
        wrong["steps_per_batch"] = WRONG["steps_per_batch"]
    return wrong


@pytest.mark.parametrize("name", METHODS)
def test_values_out_of_range_are_refused(name: str) -> None:
    given = {"baselines": BLACK} if name.endswith("Shap") else {}
    if name == "KernelShap":
        given = {}
    for argument, cases in wrong_of(name).items():
        for value, error, message in cases:
            with pytest.raises(error, match=message):
                explained(name, **{**given, argument: value})


@pytest.mark.parametrize("name", METHODS)
def test_every_argument_of_captum_is_known_to_this_test(name: str) -> None:
    """So that a new one is not forgotten."""
    parameters = signature(made(name).attribute).parameters.values()
    names = {one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD}
    assert names <= {*REFUSED_ARGUMENTS, *WRONG, "baselines"}


def test_arguments_are_checked_before_anything_is_generated() -> None:
    model, processor, inp = world()
    passes: list[int] = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    method = VLMAttribution(IntegratedGradients(VLMForward(model)), processor)
    try:
        with pytest.raises(ValueError, match="n_steps must be positive"):
            method.attribute(inp, n_steps=0)
        with pytest.raises(ValueError, match="n_steps must be positive"):
            next(iter(method.stream(inp, n_steps=0)))
        with pytest.raises(ValueError, match="n_steps must be positive"):
            method.attribute([inp, inp], n_steps=0)
    finally:
        handle.remove()
    assert not passes


@pytest.mark.parametrize("name", ["GradientShap", "DeepLiftShap"])
def test_what_a_method_needs_is_named(name: str) -> None:
    with pytest.raises(TypeError, match="needs the argument baselines"):
        explained(name)


SAME: list[tuple[str, dict[str, Any], Any]] = [
    # How many are evaluated at a time, and the shape of what Captum returns.
    ("FeatureAblation", {"perturbations_per_eval": 5}, {}),
    ("FeatureAblation", {"show_progress": True}, {}),
    ("FeatureAblation", {"baselines": None, "feature_mask": None}, {}),
    ("ShapleyValueSampling", {"n_samples": 3, "perturbations_per_eval": 4}, {}),
    ("Occlusion", {"perturbations_per_eval": 4}, {}),
    ("Occlusion", {"sliding_window_shapes": (3, 3), "strides": (1, 1)}, {}),
    ("Occlusion", {"sliding_window_shapes": [3, 3], "strides": 1}, {}),
    ("KernelShap", {"n_samples": 20, "return_input_shape": False}, {}),
    ("Lime", {"n_samples": 20, "perturbations_per_eval": 7}, {}),
    ("IntegratedGradients", {"internal_batch_size": 1}, {}),
    ("IntegratedGradients", {"internal_batch_size": None}, {}),
    ("IntegratedGradients", {"steps_per_batch": 1}, {}),
    ("IntegratedGradients", {"baselines": 0}, {}),
    ("IntegratedGradients", {"baselines": (0.0,)}, {}),
    ("IntegratedGradients", {"baselines": torch.tensor(0)}, {}),
    ("IntegratedGradients", {"baselines": BLACK[:1]}, {}),
    ("IntegratedGradients", {"baselines": [BLACK[:1]]}, {}),
    ("IntegratedGradients", {"return_convergence_delta": True}, {}),
    ("IntegratedGradients", {"baselines": torch.tensor(0.3)}, {"baselines": 0.3}),
    ("GradientShap", {"baselines": BLACK}, {"baselines": lambda pixels: BLACK}),
    ("GradientShap", {"baselines": BLACK, "stdevs": 0}, {"baselines": BLACK}),
    ("NoiseTunnel", {"nt_samples": 4, "nt_samples_batch_size": 9}, {"nt_samples": 4}),
    ("NoiseTunnel", {"stdevs": 1}, {"stdevs": (1.0,)}),
    ("noisy gradients", {"internal_batch_size": 5}, {}),
    ("LayerIntegratedGradients", {"internal_batch_size": 1}, {}),
    ("LayerIntegratedGradients", {"internal_batch_size": None}, {}),
    ("LayerGradCam", {"grad_kwargs": {"retain_graph": True}}, {}),
    ("LayerGradCam", {"attr_dim_summation": True}, {}),
    ("LayerGradientXActivation", {"attribute_to_layer_input": False}, {}),
]


@pytest.mark.parametrize(
    ("name", "arguments", "others"),
    SAME,
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_some_arguments_change_no_value(
    name: str, arguments: dict[str, Any], others: dict[str, Any]
) -> None:
    if name in ("KernelShap", "Lime"):
        pytest.importorskip("sklearn.linear_model", reason="Captum fits with it")
    one = explained(name, **arguments).token_attr
    if "n_samples" in arguments:
        others = {**others, "n_samples": arguments["n_samples"]}
    other = explained(name, **others).token_attr
    assert one.any() or name == "Lime"
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_grad_cam_passes_grad_kwargs_on() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        explained("LayerGradCam", grad_kwargs={"nonsense": 1})
    both = {"contrast": TARGETS[::-1]}
    plain = explained("LayerGradCam", **both).token_attr
    assert (plain < 0).any()
    relu = explained("LayerGradCam", relu_attributions=True, **both).token_attr
    assert torch.equal(relu, plain.relu())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("IntegratedGradients", {"n_steps": 2}),
        ("IntegratedGradients", {"method": "riemann_left"}),
        ("IntegratedGradients", {"baselines": 1.0}),
        ("Saliency", {"abs": False}),
        ("NoiseTunnel", {"stdevs": 0.2}),
        ("NoiseTunnel", {"nt_type": "vargrad"}),
        ("noisy gradients", {"baselines": 1.0}),
        ("Occlusion", {"sliding_window_shapes": (2, 2)}),
        ("Occlusion", {"sliding_window_shapes": (2, 2), "strides": 2}),
        ("FeatureAblation", {"patches": (2, 2)}),
        ("LayerIntegratedGradients", {"baselines": 1.0}),
    ],
    ids=str,
)
def test_others_do_change_values(name: str, change: dict[str, Any]) -> None:
    plain = explained(name).token_attr
    assert relative_error(explained(name, **change).token_attr, plain) > 1e-3


def test_several_baselines_of_a_method_that_takes_one() -> None:
    with pytest.raises(
        ValueError, match="IntegratedGradients can't be run .* Baseline"
    ):
        explained("IntegratedGradients", baselines=BLACK)
    with pytest.raises(
        ValueError, match="IntegratedGradients can't be run .* a number"
    ):
        explained("IntegratedGradients", baselines=lambda pixels: pixels)
    with pytest.raises(ValueError, match="GradientShap can't be run .* torch.Tensor 0"):
        explained("GradientShap", baselines=0)
    with pytest.raises(ValueError, match="has to be larger than one"):
        explained("IntegratedGradients", method="riemann_trapezoid", n_steps=1)


def test_a_layer_method_has_one_layer_of_the_model() -> None:
    model, _, _ = world()
    forward, layer = VLMForward(model), model.model.multi_modal_projector
    for method in (LayerActivation, LayerIntegratedGradients):
        with pytest.raises(TypeError, match="with a single layer, got list"):
            explained(method(forward, [layer]))
    with pytest.raises(ValueError, match="Linear, is not part of the model"):
        explained(LayerGradCam(forward, torch.nn.Linear(2, 2)))


def test_the_baseline_of_an_input_is_the_colour_of_absent_parts() -> None:
    """As the refusal of ``baselines`` says."""
    _, _, inp = world()
    white = explained("FeatureAblation").token_attr
    before: Any = inp.baseline
    try:
        inp.baseline = (0, 200, 0)
        green: Tensor = explained("FeatureAblation").token_attr
    finally:
        inp.baseline = before
    assert relative_error(green, white) > 1e-2
