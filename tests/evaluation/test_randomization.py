"""Weights made random, and put back; the similarity of maps."""

import contextlib
import copy
import gc
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.evaluation import (
    cascading_randomization,
    decoder_parts,
    independent_randomization,
    map_similarity,
    ModelPart,
    randomization,
    randomized,
    swap_similarity,
    vision_part,
)
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES
from tests.helpers.interleaved import elsewhere
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor

# Tied and untied heads, cross-attention, an encoder, convolutions.
FAMILIES = [
    "llava",
    "bakllava",
    "gemma3",
    "paligemma",
    "mllama",
    "florence2",
    "qwen2_5_vl",
    "idefics3",
]
BY_NAME = {case.name: case for case in CASES}


def values_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those that are tied under every name."""
    held = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach().clone() for name, tensor in held}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    after = values_of(model)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def names_in(model: nn.Module, part: ModelPart) -> set[str]:
    """Names of the part's parameters whose values are not all equal."""
    inside = {id(module) for one in part.modules for module in one.modules()}
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if id(module) in inside
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.unique().numel() > 1
    }


def test_the_parts_are_the_models() -> None:
    model: Any = tiny_vlm("llava", num_layers=3)
    parts = decoder_parts(model)
    assert [part.name for part in parts] == ["head", "layer 2", "layer 1", "layer 0"]
    layers = model.model.language_model.layers
    assert [part.modules for part in parts] == [
        (model.lm_head,),
        (layers[2],),
        (layers[1],),
        (layers[0],),
    ]
    assert vision_part(model).modules == (model.model.vision_tower,)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_part_is_random_and_nothing_else(name: str) -> None:
    case = BY_NAME[name]
    model: Any = case.model(0, case.implementations[0])
    warm(model, case.inputs(0, 3))
    head, last, *_, first = decoder_parts(model)
    before = values_of(model)
    embedding = model.get_input_embeddings().weight
    for part in (head, last, first, vision_part(model)):
        with untouched(model):
            with randomized(model, [part]):
                inside = values_of(model)
                assert changed(before, model) == names_in(model, part)
                assert names_in(model, part)
                for key in names_in(model, part):
                    both = (before[key].flatten(), inside[key].flatten())
                    ours, theirs = (one.sort().values for one in both)
                    assert torch.equal(ours, theirs)
                assert model.get_input_embeddings().weight is embedding
        assert not changed(before, model)


def test_a_tied_head_leaves_the_embedding_alone() -> None:
    case = BY_NAME["paligemma"]
    model: Any = case.model(0, case.implementations[0])
    model.lm_head.weight = model.get_input_embeddings().weight
    kept = model.lm_head.weight.detach().clone()
    with randomized(model, decoder_parts(model)[:1]):
        assert torch.equal(model.get_input_embeddings().weight, kept)
        assert not torch.equal(model.lm_head.weight, kept)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", FAMILIES)
def test_a_random_model_is_explained(name: str) -> None:
    """By the normal way, with its checks; and as a model with those weights is."""
    case = BY_NAME[name]
    model: Any = case.model(1, case.implementations[0])
    inputs = case.inputs(1, 3)
    dexar = VLMAttribution(LayerDexAR(model))

    def explained() -> Tensor:
        return dexar.attribute(inputs, target=[40, 41]).token_attr

    usual = explained()
    parts = [*decoder_parts(model), vision_part(model)]
    with randomized(model, parts, seed=3):
        attributions = explained()
        other = copy.deepcopy(model)
    assert attributions.isfinite().all() and not torch.equal(attributions, usual)
    assert torch.equal(explained(), usual)
    loaded = VLMAttribution(LayerDexAR(other)).attribute(inputs, target=[40, 41])
    torch.testing.assert_close(loaded.token_attr, attributions)


def test_weights_follow_from_the_seed_and_the_name() -> None:
    model = tiny_vlm("llava")
    parts = [*decoder_parts(model), vision_part(model)]

    def within(*blocks: list[ModelPart], seed: int = 0) -> dict[str, Tensor]:
        with contextlib.ExitStack() as stack:
            for block in blocks:
                stack.enter_context(randomized(model, block, seed))
            return values_of(model)

    together = within(parts)
    for blocks in ([parts[::-1]], [[part] for part in parts], [parts[2:], parts[:2]]):
        other = within(*blocks)
        assert all(torch.equal(together[name], other[name]) for name in together)
    # The same again is the same, whatever has been drawn in between.
    torch.rand(3)
    again = within(parts, parts[:1])
    assert not torch.equal(again["lm_head.weight"], together["lm_head.weight"])
    assert torch.equal(
        again["model.language_model.norm.weight"],
        together["model.language_model.norm.weight"],
    )
    seeded = within(parts, seed=1)
    assert not torch.equal(seeded["lm_head.weight"], together["lm_head.weight"])


def test_equal_weights_of_two_layers_become_different_ones() -> None:
    model: Any = tiny_vlm("llava", num_layers=2)
    layers = model.model.language_model.layers
    layers[1].load_state_dict(layers[0].state_dict())
    with randomized(model, decoder_parts(model)):
        first, second = (dict(layer.named_parameters()) for layer in layers)
        assert not any(torch.equal(first[name], second[name]) for name in first)
        ours = first["self_attn.k_proj.weight"], first["self_attn.v_proj.weight"]
    with torch.no_grad():
        layers[0].self_attn.k_proj.weight.copy_(layers[0].self_attn.v_proj.weight)
    with randomized(model, decoder_parts(model)):
        attention = layers[0].self_attn
        assert not torch.equal(attention.k_proj.weight, attention.v_proj.weight)
        assert torch.equal(attention.v_proj.weight, ours[1])


def test_requires_grad_and_gradients_are_kept() -> None:
    model: Any = warm(tiny_vlm("llava"), prompt_inputs())
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_().grad = torch.ones_like(model.lm_head.weight)
    with untouched(model), randomized(model, decoder_parts(model)):
        assert model.lm_head.weight.requires_grad
        assert model.lm_head.weight.grad is None
        assert not any(p.requires_grad for p in model.model.parameters())


class Stopped(BaseException):
    """What a traced line raises."""


@contextlib.contextmanager
def stopped_at(number: int, files: tuple[str, ...]) -> Iterator[None]:
    """Raises before the line of this number that is run in some files."""
    lines = 0
    before = sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                raise Stopped
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_an_interruption_at_any_line_changes_nothing() -> None:
    model: Any = tiny_vlm("llava", num_layers=1)
    # Two parameters, one of which is tied to another place.
    model.lm_head.bias = nn.Parameter(torch.rand(model.lm_head.out_features))
    model.lm_head.weight = model.get_input_embeddings().weight
    parts = decoder_parts(model)[:1]

    def state() -> list[tuple[str, int, int, int]]:
        named = model.named_parameters(remove_duplicate=False)
        return [(name, id(p), p.data_ptr(), p._version) for name, p in named]

    before, values, grad = state(), values_of(model), torch.is_grad_enabled()
    files = (randomization.__file__, contextlib.__file__)
    stops, collected = 0, 0

    def is_stopped() -> bool:
        try:
            with stopped_at(stops + 1, files):
                ((_, inside),) = cascading_randomization(state, model, parts)
        except Stopped:
            return True
        assert inside != before
        return False

    # Each thread has a trace of its own: that of this one may be measuring coverage.
    while elsewhere(is_stopped):
        stops += 1
        if state() != before:
            # Stopped inside of contextlib, whose frames hold the block a while longer.
            gc.collect()
            collected += 1
        assert state() == before and torch.is_grad_enabled() == grad
    assert not changed(values, model)
    assert stops > 50 and collected < 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("depth", range(4))
def test_a_failing_method_changes_nothing(
    error: type[BaseException], depth: int
) -> None:
    model = warm(tiny_vlm("llava", num_layers=2), prompt_inputs())
    values = values_of(model)
    calls = 0

    def explain() -> int:
        nonlocal calls
        calls += 1
        if calls == depth + 1:
            raise error
        return calls

    with untouched(model):
        if depth < 3:
            with pytest.raises(error):
                cascading_randomization(explain, model)
        else:
            assert [n for _, n in cascading_randomization(explain, model)] == [1, 2, 3]
        calls = 0
        with contextlib.suppress(error):
            independent_randomization(explain, model, [vision_part(model)])
    assert not changed(values, model)


def test_the_cascade_goes_down_and_parts_alone_do_not() -> None:
    model = tiny_vlm("llava", num_layers=2)
    before = values_of(model)
    parts = decoder_parts(model)
    names = [names_in(model, part) for part in parts]

    def explain() -> set[str]:
        return changed(before, model)

    depths = cascading_randomization(explain, model)
    assert [name for name, _ in depths] == ["head", "layer 1", "layer 0"]
    assert [found for _, found in depths] == [
        names[0],
        names[0] | names[1],
        names[0] | names[1] | names[2],
    ]
    vision = vision_part(model)
    alone = independent_randomization(explain, model, [*parts, vision])
    assert [found for _, found in alone] == [*names, names_in(model, vision)]
    assert [found for _, found in independent_randomization(explain, model)] == names


class Eight(Tensor):
    """A tensor of another type, as libraries for quantisation have."""


def test_weights_that_can_not_be_random_are_refused() -> None:
    def refused(model: Any, error: type[Exception], match: str) -> None:
        with untouched(model), pytest.raises(error, match=match):
            with randomized(model, decoder_parts(model)):
                raise AssertionError

    offloaded = cpu_offload(tiny_vlm("llava"), execution_device=torch.device("cpu"))
    refused(offloaded, RuntimeError, "lm_head.weight is offloaded")
    for dtype in (torch.int8, torch.float8_e4m3fn):
        model: Any = tiny_vlm("llava")
        weight = model.lm_head.weight.detach().to(dtype)
        model.lm_head.weight = nn.Parameter(weight, requires_grad=False)
        refused(model, TypeError, f"lm_head.weight is of {dtype}: it is quantised")
    model = tiny_vlm("llava")
    weight = model.lm_head.weight.detach().as_subclass(Eight)
    model.lm_head.weight = nn.Parameter(weight)
    refused(model, TypeError, "lm_head.weight is a .*, not a plain tensor")
    model = tiny_vlm("llava")
    linear = torch.ao.nn.quantized.dynamic.Linear(48, 48)
    model.model.language_model.layers[0].mlp.down_proj = linear
    refused(model, TypeError, r"layers.0.mlp.down_proj is a quantised Linear")


def test_sharded_weights_are_refused() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch without distributed")
    from torch.distributed.fsdp import fully_shard

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model: Any = tiny_vlm("llava", num_layers=2)
        mesh = distributed.init_device_mesh("cpu", (1,))
        fully_shard(model.model.language_model.layers[1], mesh=mesh)
        with pytest.raises(TypeError, match=r"layers\.1 is sharded .* by FSDP"):
            with randomized(model, decoder_parts(model)):
                raise AssertionError
    finally:
        distributed.destroy_process_group()


def test_parts_of_another_model_are_refused() -> None:
    model, other = tiny_vlm("llava"), tiny_vlm("llava")
    with pytest.raises(ValueError, match="'head' holds a Linear that is no module"):
        with randomized(model, decoder_parts(other)):
            raise AssertionError
    empty = ModelPart("nothing", (nn.Identity(),))
    model.add_module("nothing", empty.modules[0])
    with pytest.raises(ValueError, match="'nothing' has no parameters"):
        with randomized(model, [empty]):
            raise AssertionError
    with pytest.raises(TypeError, match="No vision tower was found in Linear"):
        vision_part(nn.Linear(2, 2))


def ranks(values: list[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    return [
        sum(other < value for other in values)
        + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]


def correlation(first: list[float], second: list[float]) -> float:
    n = len(first)
    mean_1, mean_2 = sum(first) / n, sum(second) / n
    covariance = sum((a - mean_1) * (b - mean_2) for a, b in zip(first, second))
    variances = [
        sum((a - mean_1) ** 2 for a in first),
        sum((b - mean_2) ** 2 for b in second),
    ]
    return covariance / math.sqrt(variances[0] * variances[1])


def literal_ssim(first: Tensor, second: Tensor, side: int) -> float:
    """Wang et al. 2004 with square windows and sample covariances, K = .01 and .03."""
    rows, columns = first.shape
    found = []
    scaled = [(one - one.min()) / (one.max() - one.min()) for one in (first, second)]
    for top in range(rows - side + 1):
        for left in range(columns - side + 1):
            x, y = (
                one[top : top + side, left : left + side].flatten().tolist()
                for one in scaled
            )
            n = side * side
            mx, my = sum(x) / n, sum(y) / n
            vx = sum((a - mx) ** 2 for a in x) / (n - 1)
            vy = sum((b - my) ** 2 for b in y) / (n - 1)
            cov = sum((a - mx) * (b - my) for a, b in zip(x, y)) / (n - 1)
            c1, c2 = 0.01**2, 0.03**2
            found.append(
                (2 * mx * my + c1)
                * (2 * cov + c2)
                / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("shape", "side"), [((12, 12), 7), ((6, 9), 5), ((4, 4), 3), ((3, 8), 3)]
)
def test_similarities_equal_their_definitions(
    shape: tuple[int, int], side: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(shape, generator=generator)
    second = 0.5 * first + torch.rand(shape, generator=generator)
    # Ties, as a ReLU makes them.
    first = first.clamp(min=0)
    found = map_similarity(first, second)
    lists = first.flatten().tolist(), second.flatten().tolist()
    expected = correlation(ranks(lists[0]), ranks(lists[1]))
    assert found.spearman == pytest.approx(expected, abs=1e-9)
    doubles = first.double(), second.double()
    assert found.ssim == pytest.approx(literal_ssim(*doubles, side), abs=1e-9)
    back = map_similarity(second, first)
    assert back.spearman == pytest.approx(found.spearman)
    assert back.ssim == pytest.approx(found.ssim)
    scaled = map_similarity(7 * first + 3, second)
    assert scaled.spearman == pytest.approx(found.spearman)
    assert scaled.ssim == pytest.approx(found.ssim)
    same = map_similarity(first, first)
    assert same.spearman == pytest.approx(1) and same.ssim == pytest.approx(1)


def test_maps_that_show_nothing_have_no_similarity() -> None:
    ramp = torch.arange(64.0).view(8, 8)
    for one in (torch.zeros(8, 8), torch.full((8, 8), 2.5)):
        for pair in ((one, ramp), (ramp, one), (one, one)):
            found = map_similarity(*pair)
            assert found.spearman is None and found.ssim is None
    thin = map_similarity(ramp[:2], ramp[:2] ** 2)
    assert thin.spearman == pytest.approx(1) and thin.ssim is None
    larger = ramp.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert map_similarity(ramp, larger).spearman == pytest.approx(1)
    for wrong in (torch.zeros(2, 8, 8), ramp.clone().fill_(float("nan"))):
        with pytest.raises(ValueError, match="2-D and finite"):
            map_similarity(ramp, wrong)


def test_the_swap_check_keeps_the_answer() -> None:
    model, processor = load_vlm()
    inp, other = (
        ImagePromptInput(make_scene(seed).image, "Describe the image.", processor)
        for seed in (0, 1)
    )
    dexar = VLMAttribution(LayerDexAR(model), processor)
    target = "the image shows a red cross ."
    found = swap_similarity(dexar, inp, other, target)
    maps = [dexar.attribute(one, target).token_maps for one in (inp, other)]
    assert len(found) == 7
    assert found[5] == map_similarity(maps[0][5], maps[1][5])
    assert found[5].spearman < 0.9
    same = swap_similarity(dexar, inp, inp, target)
    assert same[5].spearman == pytest.approx(1)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    ramp = torch.arange(64.0).view(8, 8)
    with pytest.raises(ImportError, match=r"captum-dexar\[evaluation\]"):
        map_similarity(ramp, ramp)
