"""One table: every method on several families, and a few on every variant."""

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from captum_dexar import (
    baselines,
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMForward,
)
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES, DISTINCT
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.untouched import GET_INTERFACE, state_of, warm

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Casting complex values"),
]
TARGETS = [40, 7, 61]
BY_NAME = {case.name: case for case in CASES}
# With these, Captum draws random numbers.
RANDOM = ("GradientShap", "NoiseTunnel", "ShapleyValueSampling", "KernelShap", "Lime")
GENERATORS = ("torch RNG", "NumPy RNG")
# Parts of the image for methods that would need many perturbations of single tokens.
COARSE = ("ShapleyValueSampling", "KernelShap", "Lime")


def on_pixels(method: Any) -> Callable[[Any, Any], Any]:
    return lambda model, layer: method(VLMForward(model))


def on_layer(method: Any) -> Callable[[Any, Any], Any]:
    return lambda model, layer: method(VLMForward(model), layer)


def of_decoder(name: str) -> Callable[[Any, Any], Any]:
    return lambda model, layer: getattr(baselines, name)(model)


METHODS: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Any]]] = {
    "IntegratedGradients": (on_pixels(IntegratedGradients), {"n_steps": 4}),
    "Saliency": (on_pixels(Saliency), {}),
    "InputXGradient": (on_pixels(InputXGradient), {}),
    "GradientShap": (
        on_pixels(GradientShap),
        {"baselines": lambda pixels: 0 * pixels, "n_samples": 2},
    ),
    "NoiseTunnel": (
        lambda model, layer: NoiseTunnel(Saliency(VLMForward(model))),
        {"nt_samples": 2, "stdevs": 0.1},
    ),
    "Occlusion": (on_pixels(Occlusion), {}),
    "FeatureAblation": (on_pixels(FeatureAblation), {}),
    "ShapleyValueSampling": (on_pixels(ShapleyValueSampling), {"n_samples": 2}),
    "KernelShap": (on_pixels(KernelShap), {"n_samples": 12}),
    "Lime": (
        # Captum's own penalty leaves nothing of small attributions.
        lambda model, layer: Lime(VLMForward(model), SkLearnLasso(alpha=1e-3)),
        {"n_samples": 20},
    ),
    "LayerGradCam": (on_layer(LayerGradCam), {}),
    "LayerActivation": (on_layer(LayerActivation), {}),
    "LayerGradientXActivation": (on_layer(LayerGradientXActivation), {}),
    "LayerIntegratedGradients": (on_layer(LayerIntegratedGradients), {"n_steps": 4}),
    **{name: (of_decoder(name), {}) for name in baselines.__all__},
}


class Family:
    """A model, what is asked of it, and what DEX-AR makes of that."""

    def __init__(self, name: str) -> None:
        self.processor: Any = None
        if name == "bundled":
            self.model, self.processor = load_vlm()
            self.inp: Any = ImagePromptInput(
                make_scene(0).image, "Describe the image.", self.processor, self.model
            )
            self.target: Any = "a red circle"
            warm(self.model, self.inp.to_model_input())
        else:
            case = BY_NAME[name]
            self.model = case.model(3, case.implementations[0])
            self.inp, self.target = case.inputs(3, 3), TARGETS
            warm(self.model, self.inp)
        of_family = {
            "bundled": "model.multi_modal_projector",
            "qwen2_5_vl": "model.visual.merger",
            "paligemma": "model.multi_modal_projector",
        }
        self.layer = self.model.get_submodule(of_family[name])
        self.dexar = self.explained(LayerDexAR(self.model))

    def explained(self, method: Any, **arguments: Any) -> VLMAttributionResult:
        wrapped = VLMAttribution(method, self.processor)
        return wrapped.attribute(self.inp, target=self.target, **arguments)


@lru_cache
def family(name: str) -> Family:
    return Family(name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bundled", "qwen2_5_vl", "paligemma"])
def test_every_method_explains_every_step(name: str, method: str) -> None:
    of = family(name)
    make, arguments = METHODS[method]
    if name == "bundled" and method in COARSE:
        arguments = {**arguments, "patches": (3, 3)}
    if method in ("KernelShap", "Lime"):
        pytest.importorskip(
            "sklearn.linear_model", reason="Captum fits linear models with it"
        )
    made = make(of.model, of.layer)
    before = state_of(of.model)
    result = of.explained(made, **arguments)
    after = state_of(of.model)
    # Random methods move the caller's random state on, like a call of Captum's own.
    may_change = GENERATORS if method in RANDOM else ()
    changed = [key for key in before if before[key] != after[key]]
    assert set(changed) <= set(may_change)
    assert before.keys() == after.keys()
    assert bool(changed) == (method in RANDOM)
    assert before["get_interface"] is GET_INTERFACE

    assert result.token_attr.shape == of.dexar.token_attr.shape
    assert result.token_maps.shape == of.dexar.token_maps.shape
    assert result.seq_attr.shape == of.dexar.seq_attr.shape
    assert result.placeless_attr.shape == of.dexar.placeless_attr.shape
    assert result.token_attr.isfinite().all()
    assert result.token_attr.abs().max() > 0
    is_tam_of_random_weights = method == "LayerTokenActivation" and name != "bundled"
    if not is_tam_of_random_weights:
        assert result.token_attr.any(1).all(), "a step without an explanation"
    assert torch.equal(result.target_ids, of.dexar.target_ids)
    assert result.output_tokens == of.dexar.output_tokens
    torch.testing.assert_close(
        result.token_log_probs, of.dexar.token_log_probs, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("method", RANDOM)
def test_randomness_is_the_caller_s(method: str) -> None:
    """The same for every step, repeatable by the seed, and not the same every time;
    afterwards the generators are where one step by itself would have left them."""
    of = family("qwen2_5_vl")
    make, arguments = METHODS[method]
    made = VLMAttribution(make(of.model, of.layer))

    def explained(target: list[int], seed: int | None) -> tuple[Any, Any, Any]:
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)
        result = made.attribute(of.inp, target=target, **arguments)
        numpy_state: Any = np.random.get_state()
        return result.token_attr, torch.get_rng_state(), numpy_state[1]

    whole, torch_state, numpy_state = explained(TARGETS, 5)
    again, _, _ = explained(TARGETS, 5)
    assert torch.equal(whole, again)
    other, _, _ = explained(TARGETS, None)
    assert not torch.equal(whole, other)
    one, torch_after_one, numpy_after_one = explained(TARGETS[:1], 5)
    assert relative_error(one, whole[:1]) <= 1e-3
    assert torch.equal(torch_state, torch_after_one)
    assert (numpy_state == numpy_after_one).all()


VISION_LAYER = r"vis.*\.(layers|layer|blocks)\.0$"
GRADIENTS = ("Saliency", "IntegratedGradients")
FEW = (*GRADIENTS, "FeatureAblation", "LayerGradCam", "LayerActivation")
FEW_BASELINES = ("LayerAttention", "LayerAttentionRollout", "LayerImageGradCam")


def expected_error(case: str, method: str) -> tuple[type[Exception], str] | None:
    """The error that a method has to give, naming the family."""
    if case.startswith("chameleon") and method in GRADIENTS:
        return TypeError, "No gradient leads .* Chameleon to its pixels"
    if case == "florence2" and method in ("LayerGradCam", "LayerActivation"):
        return ValueError, "not called when a model of the family Florence-2"
    reads_across = case == "florence2" or case.startswith("mllama")
    family_name = "Florence-2" if case == "florence2" else "Llama 3.2 Vision"
    if case == "t5gemma2":
        reads_across, family_name = True, "T5Gemma 2"
    if reads_across and method in ("LayerAttentionRollout", "LayerImageGradCam"):
        return TypeError, f"not defined for {family_name}"
    if case == "t5gemma2":
        return None
    if reads_across and method in ("LayerGradCam", "LayerActivation"):
        return ValueError, f"can't be matched with the .* of {family_name}"
    return None


@pytest.mark.parametrize("case", DISTINCT, ids=lambda case: case.name)
def test_every_variant_works_or_says_why_not(case: FamilyCase) -> None:
    model = case.model(3, case.implementations[0])
    inputs = case.inputs(3, 3)
    dexar = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=TARGETS[:2])
    layers = [n for n, _ in model.named_modules() if re.search(VISION_LAYER, n)]
    for method in (*FEW, *FEW_BASELINES):
        make, arguments = METHODS[method]
        needs_layer = method in ("LayerGradCam", "LayerActivation")
        if needs_layer and not layers:
            continue
        layer = model.get_submodule(layers[0]) if layers else None
        made = VLMAttribution(make(model, layer))
        error = expected_error(case.name, method)
        if error is not None:
            with pytest.raises(error[0], match=error[1]):
                made.attribute(inputs, target=TARGETS[:2], **arguments)
            continue
        result = made.attribute(inputs, target=TARGETS[:2], **arguments)
        assert result.token_attr.shape == dexar.token_attr.shape
        assert result.token_attr.isfinite().all()
        torch.testing.assert_close(
            result.token_log_probs, dexar.token_log_probs, rtol=1e-4, atol=1e-4
        )
        # A Grad-CAM that would be negative everywhere, or attention within a window
        # that the image has left, is zero.
        if method in FEW:
            assert result.token_attr.any(1).all(), method


@pytest.mark.parametrize(
    "name", ["llava_next", "internvl", "qwen2_5_vl", "pixtral", "gemma4", "mllama"]
)
def test_copies_of_an_example_keep_their_patches(name: str) -> None:
    """Captum repeats samples row by row; an example's rows must stay together."""
    case = BY_NAME[name]
    model, inputs = case.model(3, "sdpa"), case.inputs(3, 3)
    saliency = Saliency(VLMForward(model))
    plain = VLMAttribution(saliency).attribute(inputs, target=TARGETS)
    tunnel = VLMAttribution(NoiseTunnel(saliency))
    smooth = tunnel.attribute(inputs, target=TARGETS, nt_samples=3, stdevs=1e-6)
    assert relative_error(smooth.token_attr, plain.token_attr) <= 1e-3
    one_by_one = tunnel.attribute(
        inputs, target=TARGETS, nt_samples=3, stdevs=1e-6, nt_samples_batch_size=1
    )
    assert relative_error(one_by_one.token_attr, plain.token_attr) <= 1e-3


def test_occlusion_of_several_views_needs_the_image() -> None:
    case = BY_NAME["internvl"]
    method = VLMAttribution(Occlusion(VLMForward(case.model(3, "sdpa"))))
    with pytest.raises(ValueError, match="InternVL, Qianfan-OCR sees 3 views here"):
        method.attribute(case.inputs(3, 3), target=TARGETS)


def test_layers_of_an_answer_are_complete() -> None:
    """Integrated gradients of a layer with one row per patch sum to the change."""
    of = family("qwen2_5_vl")
    blocks = of.model.get_submodule("model.visual.blocks.1")
    result = of.explained(
        LayerIntegratedGradients(VLMForward(of.model), blocks),
        n_steps=100,
        return_convergence_delta=True,
        baselines=torch.randn(24, 384, generator=torch.Generator().manual_seed(0)),
    )
    total = result.token_attr.sum(1)
    assert (result.convergence_delta.abs() <= 0.02 * total.abs().max()).all()


def test_baselines_of_another_shape_are_refused() -> None:
    of = family("qwen2_5_vl")
    method = IntegratedGradients(VLMForward(of.model))
    with pytest.raises(ValueError, match=r"shape of the model's pixels, \(24, 384\)"):
        of.explained(method, baselines=torch.zeros(5, 384))
    black = torch.zeros(24, 384)
    given = of.explained(method, baselines=black, n_steps=4)
    left_out = of.explained(method, n_steps=4)
    assert relative_error(given.token_attr, left_out.token_attr) <= 1e-6


@pytest.mark.parametrize("method", ["KernelShap", "Lime"])
def test_without_scikit_learn_it_is_named(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = family("qwen2_5_vl")
    make, arguments = METHODS[method]
    for name in ("sklearn", "sklearn.linear_model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'captum-dexar\[lime\]'"):
        of.explained(make(of.model, of.layer), **arguments)
