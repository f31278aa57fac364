"""On a CUDA device everything is what it is on the CPU; skipped where there is none."""

import csv
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from captum_dexar import compare, ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.cli import main
from captum_dexar.comparison import METHODS, named_methods
from captum_dexar.metrics import perturbation_curve
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES, DISTINCT
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from tests.helpers.untouched import untouched
from torch import nn, Tensor

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]
FEW = {"max_new_tokens": 4, "do_sample": False}
# Sums of another order, through models whose norms and weights enlarge differences.
OF_THE_DEVICE = 1e-3
# Methods whose random numbers the device makes.
RANDOM = ("gradient-shap", "smooth-grad", "shapley", "random")


@pytest.fixture(autouse=True)
def _all_of_float32() -> Iterator[None]:
    """cuDNN rounds convolutions to TF32 by default, which the CPU does not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_the_device(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.cuda() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_family_as_on_the_cpu(case: FamilyCase) -> None:
    """Generated and given, from inputs on the CPU; and the closed form as autograd."""
    model, inputs = case.model(0, case.implementations[0]), case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    ending = {} if case.name == "blip" else {"eos_token_id": -1}
    target = method.attribute(
        inputs, gen_args={**FEW, **ending}, places=case.places
    ).target_ids
    expected = method.attribute(inputs, target=target, places=case.places)
    model.cuda()
    given = method.attribute(inputs, target=target, places=case.places)
    with untouched(model):
        generated = method.attribute(
            inputs, gen_args={**FEW, **ending}, places=case.places
        )
        same = method.attribute(inputs, target=generated.target_ids, places=case.places)
    assert relative_error(given.token_attr.cpu(), expected.token_attr) <= OF_THE_DEVICE
    assert relative_error(generated.token_attr, same.token_attr) <= 1e-4
    if not case.has_own_tests:
        moved, ids = on_the_device(inputs), target[None].cuda()
        reference = explained(model, moved, ids, engine="autograd")
        assert_same(explained(model, moved, ids), reference, 10 * case.tolerance)


@pytest.mark.parametrize("case", DISTINCT, ids=lambda case: case.name)
@pytest.mark.parametrize("every", [1, 3])
def test_streamed_as_at_once(case: FamilyCase, every: int) -> None:
    model, inputs = case.model(0, case.implementations[0]).cuda(), case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    gen_args = {**FEW, "eos_token_id": -1}
    parts = list(method.stream(inputs, gen_args=gen_args, every=every))
    whole = method.attribute(inputs, target=[int(part.target_ids) for part in parts])
    streamed = torch.cat([part.token_attr for part in parts])
    assert relative_error(streamed, whole.token_attr) <= 1e-4


@pytest.mark.parametrize(
    "extension", [{"attention_power": 0.5}, {"rivals": 3}], ids=str
)
def test_extensions_as_on_the_cpu(extension: dict[str, Any]) -> None:
    """Generated and given; and the closed form as autograd."""
    model, inputs = tiny_vlm(seed=3), prompt_inputs(3)
    targets = random_targets(4, 3)
    expected = explained(model, inputs, targets, **extension)
    model.cuda()
    moved = on_the_device(inputs)
    ours = explained(model, moved, targets.cuda(), **extension)
    reference = explained(model, moved, targets.cuda(), engine="autograd", **extension)
    assert relative_error(ours.token_attr.cpu(), expected.token_attr) <= OF_THE_DEVICE
    assert_same(ours, reference, 1e-4)
    method = VLMAttribution(LayerDexAR(model))
    generated = method.attribute(inputs, gen_args=FEW, **extension)
    same = method.attribute(inputs, target=generated.target_ids, **extension)
    assert relative_error(generated.token_attr, same.token_attr) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision(dtype: torch.dtype, attention: str) -> None:
    """As near the exact maps as on the CPU: rounding alone is left."""
    targets = random_targets(4, 0)
    exact = tiny_vlm(attn_implementation=attention)
    reference = explained(exact, prompt_inputs(0), targets)
    model = tiny_vlm(attn_implementation=attention).to("cuda", dtype)
    inputs = on_the_device(prompt_inputs(0))
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    ours = explained(model, inputs, targets.cuda())
    cosine = nn.functional.cosine_similarity(
        ours.token_attr.cpu().double().flatten(),
        reference.token_attr.double().flatten(),
        dim=0,
    )
    assert float(cosine) >= 0.97


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[nn.Module, nn.Module, Any]:
    model, processor = load_vlm()
    return model, load_vlm()[0].cuda(), processor


@pytest.mark.parametrize("name", METHODS)
def test_every_method_as_on_the_cpu(
    world: tuple[nn.Module, nn.Module, Any], name: str
) -> None:
    on_the_cpu, on_cuda, processor = world
    image, target = make_scene(3).image, make_scene(3).caption
    maps = []
    for model in (on_the_cpu, on_cuda):
        inp = ImagePromptInput(image, "Describe the image.", processor, model)
        methods = named_methods([name], model)
        compared = compare(methods, inp, target, processor)
        (result,) = compared.results.values()
        assert result.token_maps is not None
        maps.append(result.token_maps.cpu().double())
    assert torch.isfinite(maps[1]).all()
    if name not in RANDOM:
        torch.testing.assert_close(maps[1], maps[0], rtol=0, atol=2e-2)


def test_a_result_of_the_device_is_saved_drawn_and_loaded(
    world: tuple[nn.Module, nn.Module, Any], tmp_path: Path
) -> None:
    _, model, processor = world
    inp = ImagePromptInput(make_scene(0).image, "Describe the image.", processor, model)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp)
    result.save(tmp_path / "a.dexar")
    loaded = type(result).load(tmp_path / "a.dexar")
    torch.testing.assert_close(loaded.token_maps, result.token_maps.cpu())
    assert loaded.to_html() == result.to_html()
    result.plot_tokens()
    result.plot_layers()
    assert result.regions(2) is not None


def test_perturbation_as_on_the_cpu(world: tuple[nn.Module, nn.Module, Any]) -> None:
    image, curves = make_scene(1).image, []
    for model in world[:2]:
        inp = ImagePromptInput(image, "Describe the image.", world[2], model)
        method = VLMAttribution(LayerDexAR(model), world[2])
        result = method.attribute(inp, target=make_scene(1).caption)
        curves.append(perturbation_curve(method, inp, result).log_probs.cpu())
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "protocol", ["localization", "perturbation", "effects", "sanity"]
)
def test_evaluations_as_on_the_cpu(protocol: str, tmp_path: Path) -> None:
    tables = []
    for device in ("cpu", "cuda"):
        out = str(tmp_path / device)
        command = f"evaluate --protocol {protocol} --methods dexar,attention --limit 2"
        assert main([*command.split(), "--device", device, "--out", out]) == 0
        with (tmp_path / device / "summary.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) > 0
    for one, other in zip(*tables):
        # The same seed makes other random weights on another device.
        if " random " in one["measure"]:
            continue
        assert float(one["mean"]) == pytest.approx(
            float(other["mean"]), rel=2e-2, abs=2e-2, nan_ok=True
        )


def test_weights_partly_on_the_cpu() -> None:
    """Accelerate moves them to the device when they are used."""
    inputs, targets = prompt_inputs(0), random_targets(4, 0)
    reference = explained(tiny_vlm().cuda(), on_the_device(inputs), targets.cuda())
    model: Any = tiny_vlm()
    text = model.model.language_model
    parts = {f"model.{name}": 0 for name, _ in model.model.named_children()}
    del parts["model.language_model"]
    parts |= {f"model.language_model.{name}": 0 for name, _ in text.named_children()}
    del parts["model.language_model.layers"]
    layers = {
        f"model.language_model.layers.{index}": "cpu" if index == 1 else 0
        for index in range(len(text.layers))
    }
    dispatched = dispatch_model(model, {**parts, **layers, "lm_head": 0})
    ours = explained(dispatched, on_the_device(inputs), targets.cuda())
    assert_same(ours, reference)


def test_two_threads_on_streams_of_their_own() -> None:
    model, inputs = tiny_vlm().cuda(), on_the_device(prompt_inputs(0))
    targets = random_targets(6, 0).cuda()
    reference = explained(model, inputs, targets).token_attr
    found: list[Tensor] = []

    def explain() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                found.append(explained(model, inputs, targets).token_attr)
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=explain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    for one in found:
        torch.testing.assert_close(one, reference, rtol=1e-5, atol=1e-8)


def test_no_memory_of_the_device_is_kept() -> None:
    model, inputs = tiny_vlm().cuda(), on_the_device(prompt_inputs(0))
    method = VLMAttribution(LayerDexAR(model))

    def allocated_after_an_answer() -> int:
        method.attribute(inputs, gen_args=FEW)
        gc.collect()
        return torch.cuda.memory_allocated()

    allocated_after_an_answer()
    before = allocated_after_an_answer()
    assert [allocated_after_an_answer() for _ in range(5)] == [before] * 5
