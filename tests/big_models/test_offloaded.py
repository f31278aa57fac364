"""A model whose weights are offloaded is explained as the plain one is."""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import (
    cpu_offload,
    cpu_offload_with_hook,
    disk_offload,
    dispatch_model,
    init_empty_weights,
)
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.baselines import LayerTokenActivation
from tests.families.cases import CASES
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from tests.helpers.untouched import state_of, warm
from torch import nn, Tensor
from transformers import AutoModelForImageTextToText

TARGET = [40, 41, 42]
FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
CPU = torch.device("cpu")


def on_the_cpu(model: nn.Module, folder: Path, **options: Any) -> nn.Module:
    offloaded: nn.Module = cpu_offload(model, execution_device=CPU, **options)
    return offloaded


def on_the_disk(model: nn.Module, folder: Path) -> nn.Module:
    offloaded: nn.Module = disk_offload(
        model, folder, execution_device="cpu", offload_buffers=True
    )
    return offloaded


def by_device_map(model: Any, folder: Path, *, on_disk: tuple[str, ...]) -> nn.Module:
    """Saved, and loaded with some parts on the disk and the others on the CPU."""
    text = model.model.language_model
    parts = [f"model.{name}" for name, _ in model.model.named_children()]
    parts.remove("model.language_model")
    parts += [f"model.language_model.{name}" for name, _ in text.named_children()]
    parts.remove("model.language_model.layers")
    parts += [f"model.language_model.layers.{i}" for i in range(len(text.layers))]
    parts.append("lm_head")
    model.save_pretrained(folder / "saved")
    loaded: nn.Module = AutoModelForImageTextToText.from_pretrained(
        folder / "saved",
        device_map={
            part: "disk" if part.endswith(on_disk) else "cpu" for part in parts
        },
        offload_folder=folder / "offloaded",
    )
    return loaded


def automatically(model: Any, folder: Path) -> nn.Module:
    """Placed by accelerate, with too little memory for the whole model."""
    size = sum(weight.nbytes for weight in model.parameters())
    model.save_pretrained(folder / "saved")
    loaded: nn.Module = AutoModelForImageTextToText.from_pretrained(
        folder / "saved",
        device_map="auto",
        max_memory={"cpu": size * 2 // 3},
        offload_folder=folder / "offloaded",
    )
    return loaded


def dispatched(model: Any, folder: Path) -> nn.Module:
    """Placed part by part; what is not on the CPU is loaded for each pass."""
    text = model.model.language_model
    parts = {f"model.{name}": "cpu" for name, _ in model.model.named_children()}
    del parts["model.language_model"]
    parts |= {
        f"model.language_model.{name}": "cpu" for name, _ in text.named_children()
    }
    del parts["model.language_model.layers"]
    for index in range(len(text.layers)):
        place = "disk" if index == 1 else "cpu"
        parts[f"model.language_model.layers.{index}"] = place
    placed: nn.Module = dispatch_model(
        model, {**parts, "lm_head": "cpu"}, main_device="cpu", offload_dir=str(folder)
    )
    return placed


OFFLOADING: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "cpu": on_the_cpu,
    "cpu_with_buffers": partial(on_the_cpu, offload_buffers=True),
    "disk": on_the_disk,
    "map_layers": partial(by_device_map, on_disk=("layers.1", "layers.2")),
    "map_rest": partial(
        by_device_map,
        on_disk=("layers.0", "norm", "head", "embed_tokens", "tower", "visual"),
    ),
    "auto": automatically,
    "dispatched": dispatched,
}


@dataclass(frozen=True, eq=False)
class Pair:
    """A model, offloaded and not."""

    case: FamilyCase
    plain: nn.Module
    offloaded: nn.Module


# Whichever way the weights come back, their families differ alike.
OF_ONE_FAMILY = ("auto", "dispatched")
PAIRS = [
    (family, offloading)
    for family in ("llava", "qwen2_5_vl", "gemma3")
    for offloading in OFFLOADING
    if family == "llava" or offloading not in OF_ONE_FAMILY
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    family, offloading = request.param
    (case,) = [case for case in CASES if case.name == family]
    plain = case.model(0, "sdpa")
    offload = OFFLOADING[offloading]
    offloaded = offload(copy.deepcopy(plain), tmp_path_factory.mktemp("offload"))
    return Pair(case, plain, warm(offloaded, case.inputs(0, 3)))


# Ways of explaining.


def teacher_forced(model: nn.Module, case: FamilyCase, **options: Any) -> Tensor:
    method = VLMAttribution(LayerDexAR(model))
    return method.attribute(case.inputs(0, 3), target=TARGET, **options).token_attr


def by_autograd(model: nn.Module, case: FamilyCase) -> Tensor:
    method = VLMAttribution(LayerDexAR(model, engine="autograd"))
    return method.attribute(case.inputs(0, 3), target=TARGET).token_attr


def generated(model: nn.Module, case: FamilyCase) -> Tensor:
    method = VLMAttribution(LayerDexAR(model))
    return method.attribute(case.inputs(0, 3), gen_args=FEW).token_attr


def streamed(model: nn.Module, case: FamilyCase) -> Tensor:
    steps = VLMAttribution(LayerDexAR(model)).stream(case.inputs(0, 3), gen_args=FEW)
    return torch.cat([step.token_attr for step in steps])


def listed(model: nn.Module, case: FamilyCase) -> Tensor:
    inputs = [case.inputs(0, 3), case.inputs(0, 5)]
    results = VLMAttribution(LayerDexAR(model)).attribute(inputs, gen_args=FEW)
    return torch.cat([result.token_attr for result in results])


def next_token(model: nn.Module, case: FamilyCase) -> Tensor:
    inputs = dict(case.inputs(0, 3))
    pixels, ids = inputs.pop("pixel_values"), inputs.pop("input_ids")
    attr = LayerDexAR(model).attribute(pixels, additional_forward_args=(ids, inputs))
    assert isinstance(attr, Tensor)
    return attr


def token_activation(model: nn.Module, case: FamilyCase) -> Tensor:
    method = VLMAttribution(LayerTokenActivation(model))
    return method.attribute(case.inputs(0, 3), target=TARGET).token_attr


EXPLAINING: dict[str, Callable[[nn.Module, FamilyCase], Tensor]] = {
    "target": teacher_forced,
    "attention_power": partial(teacher_forced, attention_power=0.5),
    "autograd": by_autograd,
    "generated": generated,
    "streamed": streamed,
    "list": listed,
    "next_token": next_token,
    "token_activation": token_activation,
}


@contextmanager
def left_offloaded(model: nn.Module) -> Iterator[None]:
    """Asserts that the block leaves the model as it is, the same weights offloaded.

    Each pass puts others in the place of an offloaded weight.
    """

    def state() -> dict[str, Any]:
        known = {
            name: value
            for name, value in state_of(model).items()
            if not name.startswith(("parameter", "buffer"))
        }
        weights = model.named_parameters(remove_duplicate=False)
        buffers = model.named_buffers(remove_duplicate=False)
        for name, tensor in (*weights, *buffers):
            known[f"tensor {name}"] = (
                tensor.device,
                tensor.dtype,
                tensor.shape,
                tensor.requires_grad,
                tensor.grad is None,
            )
        return known

    before = state()
    yield
    after = state()
    assert [name for name in before if before[name] != after.get(name)] == []
    assert before.keys() == after.keys()


@pytest.mark.parametrize("way", EXPLAINING)
def test_an_offloaded_model_is_explained_like_the_plain_one(
    pair: Pair, way: str
) -> None:
    explain = EXPLAINING[way]
    assert any(parameter.is_meta for parameter in pair.offloaded.parameters())
    with left_offloaded(pair.offloaded):
        attr = explain(pair.offloaded, pair.case)
    assert relative_error(attr, explain(pair.plain, pair.case)) <= 1e-5


def test_layers_that_are_loaded_whole() -> None:
    model = tiny_vlm()
    reference = explained(model, prompt_inputs(), random_targets(3))
    method = VLMAttribution(LayerDexAR(model))
    generated = method.attribute(prompt_inputs(), gen_args=FEW)
    cpu_offload(model, CPU, preload_module_classes=["LlamaDecoderLayer"])
    assert_same(explained(model, prompt_inputs(), random_targets(3)), reference)
    again = method.attribute(prompt_inputs(), gen_args=FEW)
    assert relative_error(again.token_attr, generated.token_attr) <= 1e-5
    streamed = [
        step.token_attr for step in method.stream(prompt_inputs(), gen_args=FEW)
    ]
    assert relative_error(torch.cat(streamed), generated.token_attr) <= 1e-5


@pytest.mark.parametrize("way", ["target", "generated", "streamed", "list"])
def test_a_model_that_comes_to_its_device_as_a_whole(way: str) -> None:
    """Until another one of a pipeline's is needed."""
    (case,) = [case for case in CASES if case.name == "llava"]
    plain = case.model(0, "sdpa")
    model, hook = cpu_offload_with_hook(copy.deepcopy(plain), CPU)
    attr = EXPLAINING[way](model, case)
    assert relative_error(attr, EXPLAINING[way](plain, case)) <= 1e-5
    hook.offload()
    again = EXPLAINING[way](model, case)
    assert relative_error(again, attr) <= 1e-5


class Weights(dict[str, Tensor]):
    """Weights to load, which knows of how many decoder layers some are in memory."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__(weights)
        self.loaded: list[tuple[str, weakref.ref[Any]]] = []
        self.most_layers = 0

    def __getitem__(self, name: str) -> Tensor:
        weight = super().__getitem__(name).clone()
        _, found, place = name.partition("language_model.layers.")
        if found:
            layer = place.partition(".")[0]
            self.loaded.append((layer, weakref.ref(weight.untyped_storage())))
        self.loaded = [(layer, ref) for layer, ref in self.loaded if ref() is not None]
        layers = len({layer for layer, _ in self.loaded})
        self.most_layers = max(self.most_layers, layers)
        return weight


@pytest.mark.parametrize("way", ["target", "generated", "streamed", "list"])
def test_no_more_than_one_layer_is_loaded_at_a_time(way: str) -> None:
    (case,) = [case for case in CASES if case.name == "llava"]
    model = case.model(0, "sdpa")
    weights = Weights(model.state_dict())
    cpu_offload(model, execution_device=CPU, state_dict=weights)
    EXPLAINING[way](model, case)
    assert weights.most_layers == 1
    assert not weights.loaded or weights.loaded[-1][1]() is None


@pytest.mark.parametrize("part", ["", "lm_head", "model.language_model.layers.1.mlp"])
def test_weights_that_were_never_loaded_are_refused(part: str) -> None:
    model = tiny_vlm()
    model.get_submodule(part).to("meta")
    inputs = prompt_inputs()
    pixels, ids = inputs["pixel_values"], inputs["input_ids"]
    method = LayerDexAR(model)
    for explain in (
        lambda: VLMAttribution(method).attribute(inputs, target=TARGET),
        lambda: list(VLMAttribution(method).stream(inputs)),
        lambda: method.attribute(pixels, additional_forward_args=(ids, {})),
    ):
        with pytest.raises(RuntimeError, match=f"never loaded, beginning with {part}"):
            explain()


def test_a_model_of_empty_weights_is_refused() -> None:
    config = tiny_vlm().config
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config).eval()
    for engine in ("closed_form", "autograd"):
        method = VLMAttribution(LayerDexAR(model, engine=engine))
        with pytest.raises(RuntimeError, match="were never loaded"):
            method.attribute(prompt_inputs(), target=TARGET)
        with pytest.raises(RuntimeError, match="were never loaded"):
            method.attribute(prompt_inputs(), gen_args=FEW)


def test_a_part_that_was_never_loaded_among_offloaded_ones_is_refused() -> None:
    model: Any = tiny_vlm()
    model.lm_head.to("meta")
    cpu_offload(model.model, execution_device=CPU)
    with pytest.raises(RuntimeError, match="with lm_head.weight: 1 of 89 parameters"):
        VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(), target=TARGET)
