"""Graphs of the explained rows only, whichever way they come about."""

import threading
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.attention_gradients import AttentionCall, intercepted_attention
from captum_dexar.attention_gradients.layer_replay import at_positions
from captum_dexar.attention_gradients.local_graphs import LocalGraph, LocalGraphs
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases import joined_states
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from tests.helpers.untouched import GET_INTERFACE, state_of
from torch import nn, Tensor
from transformers import DynamicCache
from transformers.modeling_utils import AttentionInterface


class _FullPass(DecodingSteps):
    def passes(self, cache: Any = None, max_tokens: Any = None) -> Any:
        yield self.full_pass()


def graphs_of(
    model: nn.Module,
    steps: DecodingSteps,
    max_positions: int = 256,
    reuses_projections: bool = False,
) -> list[tuple[int, tuple[int, ...], int]]:
    """Layer, shape of the hidden states and nodes of each graph of a full pass."""
    decoder = find_decoder(model)
    explained_pass = steps.full_pass()
    found = []

    def keep(graph: LocalGraph) -> None:
        with torch.enable_grad():
            total = graph.hidden.sum()
        (gradient,) = torch.autograd.grad(
            total, graph.outputs, retain_graph=graph.is_shared
        )
        assert gradient.shape == graph.outputs[0].shape
        assert not graph.calls[0].value.requires_grad
        found.append((graph.layer, tuple(graph.hidden.shape), gradient.shape[1]))

    graphs = LocalGraphs(
        decoder,
        list(range(len(decoder.layers))),
        lambda _: explained_pass.query_positions,
        keep,
        None,
        max_positions,
        reuses_projections,
    )
    with graphs.watching():
        explained_pass.logits()
    return found


@pytest.mark.parametrize("reuses_projections", [False, True])
@pytest.mark.parametrize(("max_positions", "parts"), [(256, [5]), (2, [2, 2, 1])])
def test_a_full_pass_has_graphs_of_its_rows_only(
    max_positions: int, parts: list[int], reuses_projections: bool
) -> None:
    model = tiny_vlm(seed=1)
    steps = DecodingSteps(Prompt(model, prompt_inputs(1)), random_targets(5, 1))
    expected = [(layer, (1, rows, 48), rows) for layer in range(3) for rows in parts]
    assert graphs_of(model, steps, max_positions, reuses_projections) == expected


class _LooksAround(nn.Module):
    """An MLP whose rows depend on how many others there are."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.mlp(hidden)
        return output * (1 + hidden.shape[1] / 10)


def test_a_layer_that_mixes_positions_has_a_graph_of_all() -> None:
    model: Any = tiny_vlm(seed=1)
    for layer in model.model.language_model.layers:
        layer.mlp = _LooksAround(layer.mlp)
    steps = DecodingSteps(Prompt(model, prompt_inputs(1)), random_targets(3, 1))
    length = steps.prompt.length + 2
    # One per step, since a step's reading depends on other positions too.
    assert graphs_of(model, steps) == [
        (layer, (1, 1, 48), length) for layer in range(3) for _ in range(3)
    ]


def row_gradients(
    model: nn.Module, query_positions: Any, replays: bool = True
) -> dict[int, list[Tensor]]:
    """Of each layer's states at each explained position, with respect to its attention
    output there."""
    decoder = find_decoder(model)
    found: dict[int, list[Tensor]] = {}

    def keep(graph: LocalGraph) -> None:
        with torch.enable_grad():
            total = graph.hidden.sin().sum()
        (gradient,) = torch.autograd.grad(
            total, graph.outputs, retain_graph=graph.is_shared
        )
        if graph.output_positions is not None:
            gradient = gradient[:, graph.output_positions]
        found.setdefault(graph.layer, []).extend(gradient.unbind(1))

    graphs = LocalGraphs(
        decoder,
        list(range(len(decoder.layers))),
        query_positions,
        keep,
        None,
        256,
        reuses_projections=False,
        replays=replays,
    )
    with graphs.watching():
        model(input_ids=torch.arange(4, 13)[None])
    assert graphs.failure is None
    return found


@pytest.mark.parametrize("family", ["inkling_mm_model", "gemma3n", "glm5_next"])
def test_positions_are_differentiated_one_by_one_where_they_mix(family: str) -> None:
    """Inkling has convolutions behind its attention; the others do not mix."""
    model = joined_states.build(family)
    every = row_gradients(model, lambda _: None)
    assert every
    for position in (0, 4, 8):
        alone = row_gradients(
            model, lambda _, p=position: torch.tensor([p]), replays=False
        )
        for layer, (gradient,) in alone.items():
            assert relative_error(every[layer][position], gradient) <= 1e-5


def test_logits_that_depend_on_the_length_of_a_pass_are_refused() -> None:
    model: Any = tiny_vlm(seed=1)
    for layer in model.model.language_model.layers:
        layer.mlp = _LooksAround(layer.mlp).eval()
    steps = _FullPass(Prompt(model, prompt_inputs(1)), random_targets(3, 1))
    with pytest.raises(RuntimeError, match="depend on which positions share its pass"):
        LayerDexAR(model).attribute_steps(steps)


def test_arguments_are_taken_along_the_axis_of_the_positions() -> None:
    rows = torch.tensor([1, 6])
    cache = DynamicCache()
    arguments = {
        "hidden_states": torch.arange(14.0).view(1, 7, 2),
        "attention_mask": torch.ones(1, 1, 7, 7),
        "position_embeddings": (torch.ones(3, 1, 7, 8), torch.ones(3, 1, 7, 8)),
        "past_key_values": cache,
        "kept": {"key": torch.ones(1, 2, 7, 4)},
        "use_cache": True,
    }
    taken = at_positions(arguments, 7, rows)
    assert taken["hidden_states"].tolist() == [[[2.0, 3.0], [12.0, 13.0]]]
    assert taken["attention_mask"].shape == (1, 1, 2, 7)
    assert [tuple(e.shape) for e in taken["position_embeddings"]] == [(3, 1, 2, 8)] * 2
    assert taken["past_key_values"] is None and taken["use_cache"] is True
    assert taken["kept"]["key"].shape == (1, 2, 2, 4)
    assert taken["kept"] is not arguments["kept"]


@pytest.mark.parametrize("fails_in", ["attention", "mlp", "consumer"])
def test_a_failure_leaves_nothing_behind(fails_in: str) -> None:
    model: Any = tiny_vlm(seed=1)
    steps = DecodingSteps(Prompt(model, prompt_inputs(1)), random_targets(3, 1))
    LayerDexAR(model).attribute_steps(steps)

    def fail(*_: Any) -> None:
        raise OSError("broken")

    layer = model.model.language_model.layers[1]
    module = {"attention": layer.self_attn.o_proj, "mlp": layer.mlp}.get(fails_in)
    handle = module.register_forward_hook(fail) if module else None
    before = state_of(model)
    with pytest.raises(OSError, match="broken"):
        LayerDexAR(model).attribute_steps(
            steps, on_layer=fail if fails_in == "consumer" else None
        )
    assert state_of(model) == before
    if handle:
        handle.remove()


def test_interceptions_of_two_threads_do_not_meet() -> None:
    """Two models explained at once, each in a thread of its own."""
    models = [tiny_vlm(seed=seed) for seed in (1, 2)]
    inputs, target = prompt_inputs(1), random_targets(4, 1)[0]
    expected = [
        VLMAttribution(LayerDexAR(model)).attribute(inputs, target) for model in models
    ]
    results: dict[int, list[Any]] = {0: [], 1: []}

    def run(place: int) -> None:
        method = VLMAttribution(LayerDexAR(models[place]))
        for _ in range(5):
            results[place].append(method.attribute(inputs, target))

    threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, expected_result in enumerate(expected):
        assert len(results[place]) == 5
        for result in results[place]:
            assert relative_error(result.token_attr, expected_result.token_attr) < 1e-6
    assert AttentionInterface.__dict__["get_interface"] is GET_INTERFACE


def test_the_inner_of_two_interceptions_is_asked_first() -> None:
    model: Any = tiny_vlm(seed=1)
    modules = {m: 7 for m in model.model.language_model.layers[0].modules()}
    asked: list[tuple[str, int]] = []

    def tap(name: str) -> Any:
        def run(call: AttentionCall) -> Any:
            asked.append((name, call.layer))
            return call.run()

        return run

    with torch.no_grad(), intercepted_attention(modules, tap("outer")):
        with intercepted_attention(modules, tap("inner")):
            model(**prompt_inputs(1))
        model(**prompt_inputs(1))
    assert asked == [("inner", 7), ("outer", 7)]


def test_parameters_are_as_the_user_has_them_while_explaining() -> None:
    """Another thread may take their gradients at the same time."""
    model: Any = tiny_vlm(seed=1)
    inputs, target = prompt_inputs(1), random_targets(3, 1)[0]
    model.model.language_model.norm.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    seen: list[dict[str, bool]] = []

    def look(module: nn.Module, *_: Any) -> None:
        seen.append({name: p.requires_grad for name, p in model.named_parameters()})

    handles = [
        module.register_forward_hook(look)
        for module in model.model.language_model.modules()
        if isinstance(module, nn.Linear)
    ]
    method = VLMAttribution(LayerDexAR(model))
    gen_args = {"max_new_tokens": 3, "do_sample": False}
    method.attribute(inputs, target)
    method.attribute(inputs, gen_args=gen_args)
    list(method.stream(inputs, gen_args=gen_args))
    for handle in handles:
        handle.remove()
    assert seen and all(flags == before for flags in seen)
    assert all(p.grad is None for p in model.parameters())


def test_whole_prompts_padded_on_the_left() -> None:
    """In a full pass the rows of all examples stand at the same places."""
    model = tiny_vlm(seed=2)
    inputs = prompt_inputs(2, batch=2)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, :3] = 0
    targets = random_targets(4, 2, batch=2)
    steps = _FullPass(Prompt(model, inputs), targets)
    full = LayerDexAR(model).attribute_steps(steps)
    assert_same(full, explained(model, inputs, targets))
