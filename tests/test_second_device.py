"""On another device no tensor is left behind, by a device that is only pretended.

``test_cuda.py`` has the same on a real one.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captum_dexar import baselines, LayerDexAR, VLMAttribution
from captum_dexar.methods import scoring
from tests.families.cases import DISTINCT
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.literal import WAYS
from tests.helpers.second_device import PRETENDED, second_device, WrongDevice
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import Tensor

TARGET = [40, 41]
FEW = {"max_new_tokens": 3, "do_sample": False}
BASELINES = [
    getattr(baselines, name) for name in sorted(baselines.__all__) if "Layer" in name
]


@pytest.fixture(name="device")
def _device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """How much memory a device has is asked of its driver."""
    free = lambda device: (2**30, 2**30)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    with second_device():
        yield PRETENDED


@pytest.mark.parametrize(
    ("way", "engine"),
    [(way, "closed_form") for way in WAYS]
    + [("given", "autograd"), ("streamed", "autograd")],
)
def test_every_way_as_on_the_cpu(device: torch.device, way: str, engine: str) -> None:
    model = tiny_vlm(seed=1)
    expected = WAYS[way](LayerDexAR(model, engine=engine))
    got = WAYS[way](LayerDexAR(model.to(device), engine=engine))
    assert model.get_parameter("lm_head.weight").device == device
    for (answer, attr, _), (other, reference, _) in zip(got, expected):
        assert answer == other
        assert relative_error(attr.cpu(), reference.cpu()) <= 1e-6


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda kind: kind.__name__)
def test_baselines_as_on_the_cpu(device: torch.device, baseline: Any) -> None:
    model, inputs = tiny_vlm(seed=1), prompt_inputs(1)
    expected = VLMAttribution(baseline(model)).attribute(inputs, target=TARGET)
    method = VLMAttribution(baseline(model.to(device)))
    got = method.attribute(inputs, target=TARGET)
    assert relative_error(got.token_attr.cpu(), expected.token_attr.cpu()) <= 1e-6
    assert method.attribute(inputs, gen_args=FEW).token_attr.isfinite().all()


def test_captums_own_call(device: torch.device) -> None:
    model, inputs = tiny_vlm(seed=1).to(device), prompt_inputs(1)
    pixels, ids = (inputs[name].to(device) for name in ("pixel_values", "input_ids"))
    attr = LayerDexAR(model).attribute(pixels, additional_forward_args=(ids, {}))
    assert isinstance(attr, Tensor) and attr.device == device


# Every third: a pretended device is slow.
@pytest.mark.parametrize("case", DISTINCT[::3], ids=lambda case: case.name)
def test_families_as_on_the_cpu(device: torch.device, case: FamilyCase) -> None:
    model, inputs = case.model(0, case.implementations[0]), case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    expected = method.attribute(inputs, target=TARGET, places=case.places)
    model.to(device)
    got = method.attribute(inputs, target=TARGET, places=case.places)
    assert relative_error(got.token_attr.cpu(), expected.token_attr.cpu()) <= 1e-6
    generated = method.attribute(inputs, gen_args=FEW, places=case.places)
    assert generated.token_attr.isfinite().all()


# What is planted is found.


def left_on_the_cpu(original: Any) -> Any:
    return lambda *args, **kwargs: original(*args, **kwargs).cpu()


def made_without_its_device(original: Any) -> Any:
    def function(*args: Any, **kwargs: Any) -> Tensor:
        values: Tensor = original(*args, **kwargs)
        return values + torch.zeros(values.shape[-1])

    return function


@pytest.mark.parametrize("fault", [left_on_the_cpu, made_without_its_device])
@pytest.mark.parametrize("way", ["given", "generated", "streamed"])
def test_a_fault_in_the_package_is_found(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, way: str, fault: Any
) -> None:
    model = tiny_vlm(seed=1).to(device)
    monkeypatch.setattr(scoring, "head_weights", fault(scoring.head_weights))
    with pytest.raises(WrongDevice, match="cuda:0 and cpu"):
        WAYS[way](LayerDexAR(model))


def test_a_fault_in_a_gradient_is_found(device: torch.device) -> None:
    model: Any = tiny_vlm(seed=1).to(device)
    scale = torch.ones(48)
    layer = model.model.language_model.layers[1]
    layer.mlp.register_full_backward_pre_hook(
        lambda module, gradients: (gradients[0] * scale,)
    )
    with pytest.raises(WrongDevice, match="cuda:0 and cpu"):
        WAYS["given"](LayerDexAR(model))


def test_what_a_device_refuses(device: torch.device) -> None:
    there, here = torch.arange(3.0, device=device), torch.arange(3.0)
    with pytest.raises(WrongDevice):
        there + here
    with pytest.raises(WrongDevice):
        torch.cat([there, here])
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    # As on a device: numbers, positions on the CPU, and what is copied.
    assert (there * torch.tensor(2.0) + 1).device == device
    assert there[torch.tensor([0, 2])].device == device
    assert there.new_zeros(2).device == torch.zeros_like(there).device == device
    here.copy_(there)
    assert here.device == there.cpu().device == torch.device("cpu")
    # A copy: the original does not change with it.
    there.cpu().zero_()
    assert there.tolist() == [0, 1, 2]
