"""Tokens explained one by one, while the answer is being generated."""

import threading
from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, Saliency
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
    VLMForward,
)
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES
from tests.families.test_gradients import model_of
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched
from torch import nn

FEW = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}


def same(streamed: list[VLMAttributionResult], whole: VLMAttributionResult) -> None:
    assert [int(part.target_ids) for part in streamed] == whole.target_ids.tolist()
    maps = torch.cat([part.token_attr for part in streamed])
    assert relative_error(maps, whole.token_attr) <= 1e-5
    for name in ("token_weights", "token_log_probs"):
        if getattr(whole, name) is not None:
            torch.testing.assert_close(
                torch.cat([getattr(part, name) for part in streamed]),
                getattr(whole, name),
                rtol=1e-4,
                atol=1e-4,
            )


@pytest.mark.parametrize(
    "name",
    [
        "llava",
        "bakllava_sliding",
        "gemma3",
        "gemma4",
        "lfm2_vl",
        "qwen2_5_vl",
        "qwen3_5",
        "paligemma",
        "florence2",
        "mllama",
    ],
)
@pytest.mark.filterwarnings("ignore:The map of the whole answer")
def test_equals_explaining_afterwards(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model, inputs = model_of(case, 0, case.implementations[0]), case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    whole = method.attribute(inputs, gen_args=FEW)
    with untouched(model):
        parts = list(method.stream(inputs, gen_args=FEW))
    same(parts, whole)


def test_words_of_the_bundled_model() -> None:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(4).image, "Describe the image.", processor)
    method = VLMAttribution(LayerDexAR(model), processor)
    parts = list(method.stream(inp, attention_power=0.5))
    whole = method.attribute(inp, attention_power=0.5)
    same(parts, whole)
    assert [part.output_tokens[0] for part in parts] == whole.output_tokens
    parts[1].plot_tokens()


def test_no_position_is_run_twice() -> None:
    model: Any = tiny_vlm(seed=3)
    lengths: list[int] = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    method = VLMAttribution(LayerDexAR(model))
    inputs = prompt_inputs(3)
    list(method.stream(inputs, gen_args={**FEW, "max_new_tokens": 1}))
    lengths.clear()
    try:
        list(method.stream(inputs, gen_args=FEW))
    finally:
        handle.remove()
    assert lengths == [inputs["input_ids"].shape[1], *[1] * 3]


def test_a_token_comes_before_the_next_is_decoded() -> None:
    model: Any = tiny_vlm(seed=3)
    decoded: list[int] = []

    def count(module: nn.Module, args: Any, kwargs: Any) -> None:
        decoded.append(1)

    method = VLMAttribution(LayerDexAR(model))
    stream: Any = method.stream(
        prompt_inputs(3), gen_args={**FEW, "max_new_tokens": 200}
    )
    next(stream)
    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    stream.close()
    handle.remove()
    assert len(decoded) < 100
    assert all(thread.name != "generating" for thread in threading.enumerate())


def test_a_method_of_captum() -> None:
    model = tiny_vlm(seed=3)
    method = VLMAttribution(Saliency(VLMForward(model)))
    inputs = prompt_inputs(3)
    parts = list(method.stream(inputs, gen_args=FEW))
    same(parts, method.attribute(inputs, gen_args=FEW))


def test_perturbation_of_a_later_token() -> None:
    """The tokens before a streamed one belong to what it is predicted from."""
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(1).image, "Describe the image.", processor)
    method = VLMAttribution(FeatureAblation(VLMForward(model)), processor)
    arguments: Any = {"gen_args": FEW, "patches": (3, 3)}
    parts = list(method.stream(inp, **arguments))
    whole = method.attribute(inp, **arguments)
    maps = torch.cat([part.token_attr for part in parts])
    assert whole.token_attr is not None
    torch.testing.assert_close(maps, whole.token_attr, rtol=1e-4, atol=1e-5)


def test_errors_reach_the_caller() -> None:
    model: Any = tiny_vlm(seed=3)
    method = VLMAttribution(LayerDexAR(model))
    with pytest.raises(ValueError, match="num_beams=2 can't be streamed"):
        next(method.stream(prompt_inputs(3), gen_args={"num_beams": 2}))
    with pytest.raises(TypeError, match="no argument heads"):
        next(method.stream(prompt_inputs(3), heads=3))

    def fail(*_: Any) -> None:
        raise RuntimeError("the third layer is broken")

    handle = model.model.language_model.layers[2].register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="third layer is broken"):
            list(method.stream(prompt_inputs(3), gen_args=FEW))
    finally:
        handle.remove()
