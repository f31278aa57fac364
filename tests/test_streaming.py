"""Tokens explained one by one, or a few at a time, while the answer is generated."""

import threading
import warnings
from typing import Any, cast

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
from captum_dexar.baselines import LayerAttention
from captum_dexar.comparison import METHODS, named_methods
from captum_dexar.decoding import StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods.online_dexar import OnlineDexAR
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.result.joined import joined
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES
from tests.families.test_gradients import model_of
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor
from transformers import StoppingCriteria

# Methods whose random numbers depend on what is explained together.
RANDOM = ("gradient-shap", "smooth-grad", "shapley")
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
def test_equals_explaining_afterwards(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model, inputs = model_of(case, 0, case.implementations[0]), case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    whole = method.attribute(inputs, gen_args=FEW)
    for every in (1, 3):
        with untouched(model):
            parts = list(method.stream(inputs, gen_args=FEW, every=every))
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


def test_a_token_without_visual_evidence_says_nothing_of_the_answer() -> None:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(0).image, "Describe the image.", processor)
    method = VLMAttribution(LayerDexAR(model), processor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = list(method.stream(inp, gen_args=FEW))
    without = [part for part in parts if not part.seq_attr.any()]
    assert without
    with pytest.warns(UserWarning, match="The map of the whole answer is zero"):
        joined(without[:1])


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


class _Decoded(StoppingCriteria):
    """Never stops, and counts the tokens that have been decoded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.count += 1
        return input_ids.new_zeros(input_ids.shape[0], dtype=torch.bool)


def test_four_at_a_time_come_when_the_fourth_is_decoded() -> None:
    """The last ones are fewer."""
    model, inputs, decoded = tiny_vlm(seed=3), prompt_inputs(3), _Decoded()
    groups: list[tuple[int, int]] = []

    class Noting(LayerDexAR):
        def online(self, prompt: Prompt, **arguments: Any) -> OnlineDexAR | None:
            online = super().online(prompt, **arguments)
            assert online is not None
            explain = online.explain

            def noted(tokens: Tensor, *more: Any) -> StepAttributions:
                groups.append((tokens.shape[1], decoded.count))
                return explain(tokens, *more)

            online.explain = noted  # type: ignore[assignment, method-assign]
            return online

    gen_args = {**FEW, "max_new_tokens": 10, "stopping_criteria": [decoded]}
    parts = VLMAttribution(Noting(model)).stream(inputs, gen_args, every=4)
    whole = VLMAttribution(LayerDexAR(model)).attribute(
        inputs, gen_args={**FEW, "max_new_tokens": 10}
    )
    same(list(parts), whole)
    assert groups == [(4, 4), (4, 8), (2, 10)]


def test_no_position_is_run_twice_for_several_tokens() -> None:
    model: Any = tiny_vlm(seed=3)
    inputs = prompt_inputs(3)
    lengths: list[int] = []
    method = VLMAttribution(LayerAttention(model))
    # The model is checked once.
    list(method.stream(inputs, gen_args={**FEW, "max_new_tokens": 1}))
    decoder = model.model.language_model
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    try:
        same(
            list(method.stream(inputs, gen_args=FEW, every=3)),
            method.attribute(inputs, gen_args=FEW),
        )
    finally:
        handle.remove()
    # The prompt, two tokens, these three in one pass, another token, and this one.
    assert lengths[:6] == [inputs["input_ids"].shape[1], 1, 1, 3, 1, 1]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in RANDOM])
def test_every_method_gives_the_same_for_several_tokens(name: str) -> None:
    model, inputs = tiny_vlm(seed=3), prompt_inputs(3)
    ((chosen, arguments),) = named_methods([name], model).values()
    kwargs: Any = {**arguments, "n_steps": 3} if name == "ig" else arguments
    method = VLMAttribution(chosen)

    parts = list(method.stream(inputs, gen_args=FEW, every=3, **kwargs))
    same(parts, method.attribute(inputs, gen_args=FEW, **kwargs))


def generates_as_it_reads(
    model: nn.Module, inputs: dict[str, Tensor], settings: dict[str, Any]
) -> bool:
    """Whether generate starts from the logits that the model gives for its answer."""
    generated = cast(Any, model).generate(
        **inputs, **settings, output_logits=True, return_dict_in_generate=True
    )
    length = len(generated.logits)
    whole_pass = {**inputs, "input_ids": generated.sequences}
    with torch.no_grad():
        logits = model(**whole_pass).logits[:, -length - 1 : -1]
    return torch.allclose(torch.stack(generated.logits, 1), logits, atol=1e-4)


@pytest.mark.parametrize(
    "gen_args",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"guidance_scale": 1.5},
        {"prefill_chunk_size": 7},
    ],
    ids=lambda one: next(iter(one)),
)
@pytest.mark.parametrize("method", [LayerDexAR, LayerAttention])
def test_several_tokens_at_any_setting_of_generation(
    method: Any, gen_args: dict[str, Any]
) -> None:
    model, inputs = tiny_vlm(seed=3), prompt_inputs(3)
    explaining = VLMAttribution(method(model))
    settings = {**FEW, **gen_args}
    if not generates_as_it_reads(model, inputs, settings):
        # Chunks of a prompt lose its image in transformers before 5.21.
        with pytest.raises(Inconsistent):
            explaining.attribute(inputs, gen_args=settings)
        with pytest.raises(Inconsistent):
            list(explaining.stream(inputs, gen_args=settings, every=3))
        return
    whole = explaining.attribute(inputs, gen_args=settings)
    with untouched(model):
        parts = list(explaining.stream(inputs, gen_args=settings, every=3))
    same(parts, whole)


def test_a_hook_that_sees_how_many_positions_share_a_pass() -> None:
    model: Any = tiny_vlm(seed=3)
    inputs = prompt_inputs(3)
    lengths: list[int] = []

    def scaled(module: nn.Module, args: Any, output: Any) -> Any:
        lengths.append(output.shape[1])
        return output * (1.01 if output.shape[1] == 2 else 1)

    method = VLMAttribution(LayerAttention(model))
    projection = model.model.language_model.layers[1].mlp.down_proj
    handle = projection.register_forward_hook(scaled)
    try:
        alone = list(method.stream(inputs, gen_args=FEW))
        assert 2 not in lengths
        parts = list(method.stream(inputs, gen_args=FEW, every=2))
        assert 2 in lengths
    finally:
        handle.remove()
    for part, one in zip(parts, alone, strict=True):
        same([part], one)


def test_closing_and_failing_between_groups() -> None:
    model: Any = tiny_vlm(seed=3)
    method = VLMAttribution(LayerDexAR(model))
    inputs, decoded = prompt_inputs(3), _Decoded()
    gen_args = {**FEW, "max_new_tokens": 200, "stopping_criteria": [decoded]}
    with untouched(warm(model, inputs)):
        stream: Any = method.stream(inputs, gen_args, every=3)
        next(stream)
        stream.close()
        assert 3 <= decoded.count < 100
        assert all(thread.name != "generating" for thread in threading.enumerate())

    def fail(module: nn.Module, args: Any) -> None:
        if decoded.count == 5:
            raise RuntimeError("the sixth pass fails")

    decoded.count = 0
    handle = model.get_decoder().register_forward_pre_hook(fail)
    parts = []
    try:
        with pytest.raises(RuntimeError, match="the sixth pass fails"):
            for part in method.stream(inputs, gen_args, every=3):
                parts.append(part)
    finally:
        handle.remove()
    whole = method.attribute(inputs, gen_args={**FEW, "max_new_tokens": 3})
    same(parts, whole)


@pytest.mark.parametrize("every", [0, -1, True, 2.0, "4", None])
def test_a_wrong_number_of_tokens_at_a_time(every: Any) -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm(seed=3)))
    kind = ValueError if isinstance(every, int) and every is not True else TypeError
    with pytest.raises(kind, match="every must be"):
        next(method.stream(prompt_inputs(3), every=every))


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
