"""Other threads use the model at the same time: neither side sees the other.

At fixed points of an explanation, another thread runs the same model from beginning to
end, so that every run of a test is the same.
"""

import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from captum.attr import LayerActivation, LayerIntegratedGradients
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.baselines import (
    LayerAttention,
    LayerAttentionGradient,
    LayerImageGradCam,
    LayerTokenActivation,
)
from captum_dexar.model.changes import users_hook
from captum_dexar.model.layers import find_layers
from captum_dexar.model.temporary import temporarily
from tests.families.cases import CASES
from tests.helpers.interleaved import elsewhere, interleaved
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor

FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": -1}
TARGET = [40, 41, 42, 43]
FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "florence2", "mllama")

Explain = Callable[[VLMAttribution, dict[str, Any]], Tensor]


def given(method: VLMAttribution, inputs: dict[str, Any]) -> Tensor:
    return method.attribute(inputs, TARGET).token_attr


def in_parts(method: VLMAttribution, inputs: dict[str, Any]) -> Tensor:
    return method.attribute(inputs, TARGET, max_tokens_per_pass=1).token_attr


def generated(method: VLMAttribution, inputs: dict[str, Any]) -> Tensor:
    return method.attribute(inputs, gen_args=FEW).token_attr


def with_beams(method: VLMAttribution, inputs: dict[str, Any]) -> Tensor:
    return method.attribute(inputs, gen_args={**FEW, "num_beams": 2}).token_attr


def streamed(method: VLMAttribution, inputs: dict[str, Any]) -> Tensor:
    parts = list(method.stream(inputs, gen_args=FEW))
    return torch.cat([part.token_attr for part in parts])


WAYS: list[Explain] = [given, in_parts, generated, with_beams, streamed]
# In the other families, the ways in which most passes count.
OTHERS = [*product(FAMILIES[2:], [in_parts]), *product(FAMILIES[3:], [with_beams])]


def some_parts(model: nn.Module) -> list[nn.Module]:
    """The whole model, what it is made of, and a layer with a part of it."""
    layers = find_layers(model)
    root: Any = model
    decoder: nn.Module = root.get_decoder()
    mlp = [child for name, child in layers[-1].named_children() if "mlp" in name]
    return list(dict.fromkeys([model, decoder, layers[1], *mlp]))


def work_of(model: Any, inputs: dict[str, Any]) -> Callable[[], list[Tensor]]:
    """A pass with the gradient of a parameter, and an answer of two tokens."""

    def work() -> list[Tensor]:
        with torch.enable_grad():
            logits = model(**inputs).logits
            weight = model.get_output_embeddings().weight
            (gradient,) = torch.autograd.grad(logits.sum(), weight)
        few = {**FEW, "max_new_tokens": 2}
        return [logits.detach(), gradient, model.generate(**inputs, **few)]

    return work


def check_interleaved(
    model: nn.Module,
    method: Callable[[], VLMAttribution],
    explain: Explain,
    inputs: dict[str, Any],
    others: dict[str, Any],
) -> None:
    parts, work = some_parts(model), work_of(model, others)
    with interleaved(model, parts, lambda: None):
        alone = explain(method(), inputs)
    expected = work()
    with untouched(model), interleaved(model, parts, work) as results:
        together = explain(method(), inputs)
    assert len(results) >= 4
    assert torch.equal(together, alone) and bool(alone.any())
    for result in results:
        for tensor, reference in zip(result, expected):
            assert torch.equal(tensor, reference)


def family(name: str) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """A model, inputs for an explanation, and longer ones for the other thread."""
    (case,) = [case for case in CASES if case.name == name]
    model = case.model(0, case.implementations[0])
    return warm(model, case.inputs(0, 3)), case.inputs(0, 3), larger(case.inputs(1, 7))


def larger(inputs: dict[str, Any]) -> dict[str, Any]:
    """With an image twice as high where positions have several axes: another distance
    from the positions of the answer to its places."""
    if "image_grid_thw" not in inputs:
        return inputs
    ids = inputs["input_ids"]
    image = ids == IMAGE_TOKEN
    first = int(image[0].int().argmax())
    ids = torch.cat([ids[:, :first], ids[image][None], ids[:, first:]], dim=1)
    return {
        "input_ids": ids,
        "pixel_values": torch.cat([inputs["pixel_values"]] * 2),
        "image_grid_thw": inputs["image_grid_thw"] * torch.tensor([1, 2, 1]),
        "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
    }


@pytest.mark.parametrize("name, explain", [*product(FAMILIES[:2], WAYS), *OTHERS])
def test_closed_form(name: str, explain: Explain) -> None:
    model, inputs, others = family(name)
    check_interleaved(
        model, lambda: VLMAttribution(LayerDexAR(model)), explain, inputs, others
    )


@pytest.mark.parametrize(
    "name, explain",
    [
        ("llava", given),
        ("llava", streamed),
        ("qwen2_5_vl", generated),
        ("florence2", generated),
    ],
)
def test_autograd(name: str, explain: Explain) -> None:
    model, inputs, others = family(name)
    check_interleaved(
        model,
        lambda: VLMAttribution(LayerDexAR(model, engine="autograd")),
        explain,
        inputs,
        others,
    )


@pytest.mark.parametrize(
    "baseline",
    [
        LayerAttention,
        LayerAttentionGradient,
        LayerImageGradCam,
        LayerTokenActivation,
    ],
)
def test_baselines(baseline: Any) -> None:
    model = warm(tiny_vlm(), prompt_inputs())
    check_interleaved(
        model,
        lambda: VLMAttribution(baseline(model)),
        given,
        prompt_inputs(),
        prompt_inputs(1, before=9),
    )


@pytest.mark.parametrize(
    "method, arguments",
    [(LayerActivation, {}), (LayerIntegratedGradients, {"n_steps": 2})],
)
def test_layer_methods_of_captum(method: Any, arguments: dict[str, Any]) -> None:
    """The hooks that Captum itself registers."""
    model: Any = warm(tiny_vlm(), prompt_inputs())
    layer = model.model.vision_tower.encoder.layers[0].layer_norm2
    check_interleaved(
        model,
        lambda: VLMAttribution(method(VLMForward(model), layer)),
        lambda m, inputs: m.attribute(inputs, TARGET[:1], **arguments).token_attr,
        prompt_inputs(),
        prompt_inputs(1, before=9),
    )


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_an_answer_that_another_thread_is_generating(name: str, engine: str) -> None:
    """The other way round: an explanation between any two of its passes."""
    model, inputs, others = family(name)
    dexar = VLMAttribution(LayerDexAR(model, engine=engine))
    expected = work_of(model, others)()
    alone = generated(dexar, inputs)
    with interleaved(model, [model], lambda: generated(dexar, inputs)) as results:
        answers = work_of(model, others)()
    assert len(results) == 6
    assert all(torch.equal(result, alone) for result in results)
    assert all(map(torch.equal, answers, expected))


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_two_explanations_at_once(engine: str) -> None:
    """One ends while the other is in the middle of its work."""
    model, inputs, others = family("qwen2_5_vl")
    dexar = VLMAttribution(LayerDexAR(model, engine=engine))
    expected = generated(dexar, inputs), generated(dexar, others)
    with interleaved(model, [model], lambda: generated(dexar, others)) as results:
        made = generated(dexar, inputs)
    assert torch.equal(made, expected[0])
    assert all(torch.equal(result, expected[1]) for result in results)


class _RegisteringHook:
    """Another thread registers a hook at the moment at which this one is looked at."""

    def __init__(self, module: nn.Module, looked_at: str) -> None:
        self.module = module
        self.looked_at = looked_at
        self.count = 0

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "looked_at"):
            self.count += 1
            elsewhere(lambda: self.module.register_forward_hook(print))
        return object.__getattribute__(self, name)

    def __call__(self, *unused: Any) -> None:
        """Changes nothing."""


def test_hooks_that_come_while_hooks_are_read() -> None:
    module: Any = nn.Linear(2, 2)
    hook = _RegisteringHook(module, "__module__")
    hook.__module__ = "torch"
    module.register_forward_hook(hook)
    assert users_hook(module) is None
    assert hook.count == 1 and users_hook(module) == "forward hook"


def test_hooks_that_come_while_a_module_is_copied() -> None:
    module: Any = nn.Linear(2, 2)
    hook = _RegisteringHook(module, "__class__")
    module.register_forward_hook(hook)
    with temporarily(module):
        state = module.__getstate__()
    assert hook.count and list(state["_forward_hooks"].values()) == [hook]


def test_many_threads_at_once() -> None:
    """Without an order: explanations and plain passes side by side."""
    model = warm(tiny_vlm(), prompt_inputs())
    inputs, others = prompt_inputs(), prompt_inputs(1, before=9)
    engines: list[Callable[[], list[Tensor]]] = [
        lambda: [given(VLMAttribution(LayerDexAR(model)), inputs)],
        lambda: [streamed(VLMAttribution(LayerDexAR(model)), inputs)],
        lambda: [given(VLMAttribution(LayerDexAR(model, engine="autograd")), inputs)],
        work_of(model, others),
    ]
    expected = [work() for work in engines]
    wrong: list[int] = []
    start = threading.Barrier(len(engines))

    def repeat(number: int) -> None:
        start.wait()
        for _ in range(5):
            try:
                made = engines[number]()
            except Exception:
                wrong.append(number)
                raise
            if not all(map(torch.equal, made, expected[number])):
                wrong.append(number)

    threads = [threading.Thread(target=repeat, args=(n,)) for n in range(len(engines))]
    with untouched(model):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_what_a_model_remembers_is_each_threads_own() -> None:
    """Multi-axis positions after a prompt, by which users decode on a cache."""
    model, inputs, others = family("qwen2_5_vl")
    remembering: Any = next(m for m in model.modules() if "rope_deltas" in vars(m))
    with torch.no_grad():
        model(**others)
        mine = remembering.rope_deltas
        dexar = VLMAttribution(LayerDexAR(model))
        with interleaved(model, [model], lambda: remembering.rope_deltas) as seen:
            generated(dexar, inputs)
        assert seen and all(delta is mine for delta in seen)
        assert remembering.rope_deltas is mine
        assert elsewhere(lambda: remembering.rope_deltas) is mine
        # What another thread's pass leaves in the meantime stays as well.
        with interleaved(model, [model], lambda: model(**inputs)):
            generated(dexar, others)
        assert remembering.rope_deltas is not mine
        assert not torch.equal(remembering.rope_deltas, mine)
    assert "rope_deltas" not in vars(type(remembering))
