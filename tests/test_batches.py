"""Lists of inputs share passes, and give what each gives by itself."""

from typing import Any

import pytest
import torch
from captum.attr import Saliency
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
    VLMForward,
)
from captum_dexar.baselines import LayerAttentionGradient
from captum_dexar.shapes import load_vlm, make_scene
from tests.families.cases import CASES
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm

QUESTIONS = ("Describe the image.", "how many objects are there ?")


def same(one: VLMAttributionResult, other: VLMAttributionResult) -> None:
    assert torch.equal(one.target_ids, other.target_ids)
    assert relative_error(one.token_attr, other.token_attr) <= 1e-5
    assert relative_error(one.layer_attr, other.layer_attr) <= 1e-5
    torch.testing.assert_close(
        one.token_log_probs, other.token_log_probs, rtol=1e-4, atol=1e-4
    )
    if one.token_weights is not None:
        scale = float(other.head_weights.max())
        torch.testing.assert_close(
            one.token_weights, other.token_weights, rtol=1e-5, atol=1e-5 * scale
        )


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    return load_vlm()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_generated_answers_of_different_lengths(bundled: Any, batch_size: int) -> None:
    model, processor = bundled
    inps = [
        ImagePromptInput(make_scene(seed).image, question, processor)
        for seed in (1, 2)
        for question in QUESTIONS
    ]
    method = VLMAttribution(LayerDexAR(model), processor)
    results = method.attribute(inps, batch_size=batch_size)
    assert len({len(result.output_tokens) for result in results}) > 1
    for inp, result in zip(inps, results):
        same(result, method.attribute(inp))
        assert result.inp is not None and result.inp.images == inp.images


def test_passes_are_shared(bundled: Any) -> None:
    model, processor = bundled
    batches: list[int] = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["inputs_embeds"].shape[0]),
        with_kwargs=True,
    )
    try:
        VLMAttribution(LayerDexAR(model), processor).attribute(
            [
                ImagePromptInput(make_scene(seed).image, QUESTIONS[0], processor)
                for seed in range(5)
            ],
            target=["the image shows a red circle ."] * 5,
            batch_size=4,
        )
    finally:
        handle.remove()
    assert set(batches) == {4, 1}


@pytest.mark.parametrize(
    "name", ["llava", "qwen2_5_vl", "gemma3", "mllama", "florence2", "internvl"]
)
def test_given_answers(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = case.model(0, "sdpa")
    inps = [case.inputs(0, 2), case.inputs(1, 5), case.inputs(2, 3)]
    targets = [[40, 7, 61], [12], [9, 30]]
    method = VLMAttribution(LayerDexAR(model))
    together = method.attribute(inps, target=targets)
    for inp, target, result in zip(inps, targets, together):
        same(result, method.attribute(inp, target=target))


def test_images_of_different_kinds_are_grouped() -> None:
    model: Any = tiny_vlm(seed=2)
    small = prompt_inputs(0)
    two = prompt_inputs(1)
    two["pixel_values"] = two["pixel_values"].repeat(2, 1, 1, 1)
    two["input_ids"] = torch.cat([two["input_ids"]] * 2, dim=1)
    method = VLMAttribution(LayerDexAR(model))
    inps = [small, two, prompt_inputs(3)]
    targets = [[7], [8, 9], [10]]
    for inp, target, result in zip(
        inps, targets, method.attribute(inps, target=targets)
    ):
        same(result, method.attribute(inp, target=target))


def test_other_methods_and_arguments() -> None:
    model = tiny_vlm(seed=2)
    inps, targets = [prompt_inputs(0), prompt_inputs(1)], [[7, 8], [9]]
    gradient = VLMAttribution(LayerAttentionGradient(model))
    for inp, target, result in zip(
        inps, targets, gradient.attribute(inps, target=targets)
    ):
        same(result, gradient.attribute(inp, target=target))
    saliency = VLMAttribution(Saliency(VLMForward(model)))
    results = saliency.attribute(inps, target=targets, abs=False)
    single = saliency.attribute(inps[1], target=targets[1], abs=False)
    assert torch.equal(results[1].token_attr, single.token_attr)
    dexar = VLMAttribution(LayerDexAR(model))
    power = dexar.attribute(inps, target=targets, attention_power=1.0)
    same(power[0], dexar.attribute(inps[0], target=targets[0], attention_power=1.0))


def test_an_empty_list_has_no_results() -> None:
    assert VLMAttribution(LayerDexAR(tiny_vlm())).attribute([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": [[7]]}, "each of 2 inputs"),
        ({"target": "a red circle"}, "each of 2 inputs"),
        ({"target": [[7], [8]], "batch_size": 0}, "positive batch_size"),
        ({"target": [[7], [8]], "gen_args": {}}, "gen_args are for generating"),
        ({"target": [[7], [8]], "contrast": [9]}, "for one input"),
        ({"target": [[7], [99]]}, "vocabulary"),
    ],
    ids=str,
)
def test_what_can_not_be(arguments: dict[str, Any], message: str) -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm()))
    with pytest.raises(ValueError, match=message):
        method.attribute([prompt_inputs(0), prompt_inputs(1)], **arguments)
