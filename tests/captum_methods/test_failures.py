"""After a failure in a method of Captum's, the model and the method are as before."""

from typing import Any

import pytest
import torch
from captum_dexar import VLMAttribution
from tests.captum_methods.test_arguments import BLACK, made, METHODS, TARGETS, world
from tests.helpers.untouched import state_of, warm

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU"),
]
GENERATORS = ("torch RNG", "NumPy RNG")


class Failure(Exception):
    """Raised in the middle of a pass."""


def content_of(method: Any) -> dict[str, Any]:
    """What a method's object holds, by identity, methods inside it included."""
    content: dict[str, Any] = {}
    for name, value in vars(method).items():
        is_method = hasattr(value, "attribute")
        content[name] = content_of(value) if is_method else id(value)
        if isinstance(value, list):
            content[f"items of {name}"] = [id(item) for item in value]
    return content


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_left_behind(name: str) -> None:
    """In the first pass that fails, and in later ones, until none fails any more."""
    if name in ("KernelShap", "Lime"):
        pytest.importorskip("sklearn.linear_model", reason="Captum fits with it")
    model, processor, inp = world()
    warm(model, inp.to_model_input())
    passes = 0
    fails_in = 0

    def fail(*unused: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == fails_in:
            raise Failure

    arguments: dict[str, Any] = {}
    if name in ("GradientShap", "DeepLiftShap"):
        arguments["baselines"] = BLACK
    if name in ("IntegratedGradients", "LayerIntegratedGradients", "noisy gradients"):
        arguments["n_steps"] = 2
    if name in ("ShapleyValues", "Lime", "KernelShap", "ShapleyValueSampling"):
        arguments["patches"] = (1, 2)
    method = made(name)
    wrapped = VLMAttribution(method, processor)
    # Within the text model: the hooks of Captum's layer methods are set by then.
    handle = model.get_submodule("model.language_model").register_forward_hook(fail)
    try:
        before, content = state_of(model), content_of(method)
        for fails_in in (1, 2, 3, 0):
            passes = 0
            try:
                wrapped.attribute(inp, target=TARGETS, **arguments)
            except Failure:
                assert passes == fails_in
            else:
                assert fails_in == 0 or passes < fails_in
            after = state_of(model)
            changed = {key for key in before if before[key] != after[key]}
            assert changed <= set(GENERATORS)
            assert before.keys() == after.keys()
            assert content_of(method) == content
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["GuidedBackprop", "DeepLift", "LayerGradCam"])
def test_a_backward_pass_that_fails(name: str) -> None:
    model, processor, inp = world()
    warm(model, inp.to_model_input())

    def fail(gradient: torch.Tensor) -> None:
        raise Failure

    def watch(module: Any, arguments: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fail)

    wrapped = VLMAttribution(made(name), processor)
    projector = model.model.multi_modal_projector
    handle = projector.linear_2.register_forward_hook(watch)
    try:
        before = state_of(model)
        with pytest.raises(Failure):
            wrapped.attribute(inp, target=TARGETS)
        assert state_of(model) == before
    finally:
        handle.remove()
