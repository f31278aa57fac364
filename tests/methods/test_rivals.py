"""Each token against what the model would have said instead."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import read_prompt
from captum_dexar.methods.options import DexAROptions
from captum_dexar.methods.verification import verify
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.target_logits import rival_ids
from captum_dexar.result.joined import joined
from captum_dexar.shapes import load_vlm, make_scene
from tests.extension_study.candidates import Candidate, scored
from tests.extension_study.eager_readings import eager_readings
from tests.families.cases import CASES
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm

# Decoders with shared values, sliding windows and cross-attention; an encoder; layers
# without attention; a head with a soft cap; a family that only autograd explains.
FAMILIES = ("llava", "idefics3", "florence2", "mllama", "gemma3", "lfm2_vl", "fuyu")


def _input(seed: int) -> ImagePromptInput:
    model, processor = load_vlm()
    image = make_scene(seed, num_objects=2).image
    return ImagePromptInput(image, "Describe the image.", processor, model)


def _dexar() -> VLMAttribution:
    model, processor = load_vlm()
    return VLMAttribution(LayerDexAR(model), processor)


def _case(name: str) -> tuple[Any, dict[str, Any]]:
    (case,) = [case for case in CASES if case.name == name]
    inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in case.inputs(2, 4).items()
    }
    return case.model(2, "sdpa").double(), inputs


@pytest.mark.parametrize("name", FAMILIES)
def test_closed_form_equals_autograd(name: str) -> None:
    """In float64: of two nearly equal logits' difference float32 leaves little."""
    model, inputs = _case(name)
    targets = random_targets(4, 2)
    reference = explained(model, inputs, targets, engine="autograd", rivals=3)
    ours = explained(model, inputs, targets, rivals=3)
    # Some models have operations of their own in float32.
    assert_same(ours, reference, 1e-6)
    plain = explained(model, inputs, targets, attention_power=0.75)
    assert relative_error(ours.layer_attr, plain.layer_attr) > 0.01
    torch.testing.assert_close(ours.token_log_probs, plain.token_log_probs)


# A model that forbids tokens after its head; attention with a bias of positions (as
# many tokens as heads, which hides which axis is which), and with sinks.
WITH_OWN_LOGITS = ("chameleon", "udop", "pix2struct", "inkling_mm_model", "inkling2")


@pytest.mark.parametrize("name", WITH_OWN_LOGITS)
def test_every_way_is_plain_autograd(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model, inputs = case.model(5, case.implementations[0]), case.inputs(5, 4)
    dexar = VLMAttribution(LayerDexAR(model))
    gen_args = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}
    generated = dexar.attribute(inputs, gen_args=gen_args, rivals=3)
    ids = generated.target_ids
    given = dexar.attribute(inputs, ids, rivals=3)
    streamed = joined(list(dexar.stream(inputs, gen_args=gen_args, rivals=3)))
    autograd = VLMAttribution(LayerDexAR(model, engine="autograd"))
    expected = autograd.attribute(inputs, ids, rivals=3)
    assert expected.rival_ids is not None
    for result in (generated, given, streamed):
        assert result.rival_ids is not None
        assert torch.equal(result.rival_ids, expected.rival_ids)
        assert relative_error(result.token_attr, expected.token_attr) <= 1e-3
        torch.testing.assert_close(
            result.token_weights, expected.token_weights, atol=1e-4, rtol=1e-3
        )


def test_tokens_that_a_hook_forbids_are_no_rivals() -> None:
    model, processor = load_vlm()
    model = copy.deepcopy(model)
    forbidden = range(10, 40)

    def forbid(module: Any, args: Any, output: Any) -> Any:
        output.logits = output.logits.clone()
        output.logits[..., forbidden] = torch.finfo(output.logits.dtype).min
        return output

    model.register_forward_hook(forbid)
    inp = ImagePromptInput(make_scene(5).image, "Describe the image.", processor)
    dexar = VLMAttribution(LayerDexAR(model), processor)
    few = {"max_new_tokens": 5, "do_sample": False}
    generated = dexar.attribute(inp, gen_args=few, rivals=4)
    given = dexar.attribute(inp, generated.target_ids, rivals=4)
    assert generated.rival_ids is not None and given.rival_ids is not None
    assert torch.equal(generated.rival_ids, given.rival_ids)
    assert not set(generated.rival_ids.flatten().tolist()) & set(forbidden)
    assert relative_error(generated.token_attr, given.token_attr) <= 1e-4


@pytest.mark.parametrize("count", [1, 2, 4])
def test_they_are_an_independent_computation(count: int) -> None:
    """Maps, and the share that is a token's weight, from whole attention matrices."""
    model, processor = load_vlm()
    scene = make_scene(20_007, num_objects=3)
    ids = processor.tokenizer(
        scene.caption, add_special_tokens=False, return_tensors="pt"
    )["input_ids"]
    inp = ImagePromptInput(scene.image, "Describe the image.", processor, model)
    steps = DecodingSteps(read_prompt(inp, model, processor), ids)
    expected = scored(
        Candidate(
            "", lambda one: [one.attention**0.75 * g for g in one.against[:count]]
        ),
        eager_readings(steps, []),
    )
    ours = _dexar().attribute(inp, target=ids[0], rivals=count)
    maps = expected.maps.float() / count
    torch.testing.assert_close(
        ours.token_attr, maps, atol=1e-5 * float(maps.max()), rtol=1e-4
    )
    torch.testing.assert_close(ours.token_weights, expected.shares.float())


def test_they_are_the_mean_of_contrasts() -> None:
    model, _ = load_vlm()
    answer = _dexar().attribute(_input(5), attention_power=0.75)
    inputs = dict(_input(5).to_model_input())
    grown = torch.cat([inputs["input_ids"], answer.target_ids[None]], dim=1)
    inputs |= {"input_ids": grown, "attention_mask": torch.ones_like(grown)}
    with torch.no_grad():
        logits = model(**inputs).logits[:, -len(answer.target_ids) - 1 : -1]
    rivals = rival_ids(logits, answer.target_ids[None], 3)
    maps = [
        _dexar()
        .attribute(_input(5), answer.target_ids, contrast=one[0], attention_power=0.75)
        .token_attr
        for one in rivals
    ]
    ours = _dexar().attribute(_input(5), answer.target_ids, rivals=3)
    mean = torch.stack(maps).mean(0)
    assert relative_error(ours.token_attr, mean) <= 1e-4
    assert relative_error(ours.token_attr, maps[0]) > 0.05


def test_generated_given_streamed_and_listed_are_the_same() -> None:
    dexar = _dexar()
    generated = dexar.attribute(_input(5), rivals=4, keep_layers=True)
    given = dexar.attribute(_input(5), generated.target_ids, rivals=4)
    in_parts = dexar.attribute(
        _input(5), generated.target_ids, rivals=4, max_tokens_per_pass=3
    )
    listed, _ = dexar.attribute([_input(5), _input(6)], rivals=4)
    streamed = list(dexar.stream(_input(5), rivals=4))
    for other in (given, in_parts, listed):
        assert relative_error(other.token_attr, generated.token_attr) <= 1e-4
        torch.testing.assert_close(other.token_weights, generated.token_weights)
    parts = torch.cat([one.token_attr for one in streamed])
    assert relative_error(parts, generated.token_attr) <= 1e-4
    assert generated.layer_attr is not None
    total = generated.layer_attr.sum(1)
    assert relative_error(total, generated.token_attr) <= 1e-5


def test_a_result_says_what_they_were() -> None:
    """However they were found: as a plain pass ranks the tokens."""
    model, processor = load_vlm()
    dexar = _dexar()
    generated = dexar.attribute(_input(5), rivals=3)
    inputs = dict(_input(5).to_model_input())
    grown = torch.cat([inputs["input_ids"], generated.target_ids[None]], dim=1)
    inputs |= {"input_ids": grown, "attention_mask": torch.ones_like(grown)}
    with torch.no_grad():
        logits = model(**inputs).logits[0, -len(generated.target_ids) - 1 : -1]
    expected = []
    for row, target in zip(logits, generated.target_ids.tolist()):
        ranked = row.argsort(descending=True).tolist()
        expected.append([token for token in ranked if token != target][:3])
    ids = generated.target_ids
    others = [
        generated,
        dexar.attribute(_input(5), ids, rivals=3),
        dexar.attribute(_input(5), ids, rivals=3, max_tokens_per_pass=2),
        dexar.attribute([_input(6), _input(5)], rivals=3)[1],
        joined(list(dexar.stream(_input(5), rivals=3))),
        VLMAttribution(LayerDexAR(model, engine="autograd"), processor).attribute(
            _input(5), ids, rivals=3
        ),
    ]
    for result in others:
        assert result.rival_ids is not None and result.rival_tokens is not None
        assert result.rival_ids.tolist() == expected
        for texts, row in zip(result.rival_tokens, expected):
            assert texts == processor.tokenizer.batch_decode([[one] for one in row])
    plain = dexar.attribute(_input(5), ids, contrast=ids.flip(0))
    assert plain.rival_ids is None and plain.rival_tokens is None


def test_they_are_verified_by_autograd() -> None:
    result = _dexar().attribute(_input(5), rivals=2, verify=True)
    assert result.verification is not None and result.verification.error < 1e-3
    assert "rivals=2" in result.method


def test_verifying_finds_wrong_rivals() -> None:
    model, processor = load_vlm()
    prompt = read_prompt(_input(5), model, processor)
    ids = _dexar().attribute(_input(5)).target_ids
    options = DexAROptions(rivals=2)
    explained_ = LayerDexAR(model).attribute_steps(
        DecodingSteps(prompt, ids[None]), rivals=2
    )
    verify(prompt, ids, explained_, 0, options)
    assert explained_.rival_ids is not None
    swapped = replace(explained_, rival_ids=explained_.rival_ids.flip(-1))
    with pytest.raises(Inconsistent, match="contrasted with .* next choices are"):
        verify(prompt, ids, swapped, 0, options)


def test_graphs_are_kept_for_every_rival() -> None:
    settings: dict[str, Any] = {"rivals": 2, "grad_kwargs": {"retain_graph": False}}
    model, inputs, targets = tiny_vlm(seed=3), prompt_inputs(3), random_targets(2, 3)
    reference = explained(model, inputs, targets, engine="autograd", **settings)
    assert_same(explained(model, inputs, targets, **settings), reference)


def test_a_changed_model_is_explained_without_replays() -> None:
    model, inputs = tiny_vlm(seed=3), prompt_inputs(3)
    targets = random_targets(4, 3)
    expected = explained(model, inputs, targets, rivals=2)
    root: Any = model
    decoder = root.get_decoder()
    hook = decoder.layers[1].mlp.register_forward_hook(lambda *called: called[-1] * 1.0)
    try:
        assert_same(explained(model, inputs, targets, rivals=2), expected)
    finally:
        hook.remove()


def test_captums_interface_takes_them() -> None:
    model, processor = load_vlm()
    inputs = dict(_input(5).to_model_input())
    pixel_values, ids = inputs.pop("pixel_values"), inputs.pop("input_ids")
    ours = LayerDexAR(model).attribute(
        pixel_values, additional_forward_args=(ids, inputs), rivals=3, normalize=False
    )
    assert isinstance(ours, torch.Tensor)
    first = _dexar().attribute(
        _input(5), gen_args={"max_new_tokens": 1, "do_sample": False}, rivals=3
    )
    assert relative_error(ours.flatten(), first.token_attr.flatten()) <= 1e-4


def test_rivals_are_the_next_choices() -> None:
    lowest = torch.finfo(torch.float32).min
    logits = torch.tensor([[[5.0, 1.0, 4.0, 3.0], [9.0, lowest, 2.0, lowest]]])
    found = rival_ids(logits, torch.tensor([[2, 0]]), 3)
    # What is never generated is no rival: the best one stands there again.
    assert found.tolist() == [[[0, 2]], [[3, 2]], [[1, 2]]]
    # There is nothing to contrast with.
    alone = torch.tensor([[[lowest, 1.0, -torch.inf]]])
    assert rival_ids(alone, torch.tensor([[1]]), 2).tolist() == [[[1]], [[1]]]
    with pytest.raises(ValueError, match="fewer than the 4 tokens .* got 4"):
        rival_ids(logits, torch.tensor([[2, 0]]), 4)


def test_the_power_depends_on_them() -> None:
    assert DexAROptions().power == 0.0 and DexAROptions().changed() == []
    assert DexAROptions(rivals=4).power == 0.75
    assert DexAROptions(rivals=4).changed() == ["rivals=4"]
    assert DexAROptions(rivals=4, attention_power=0.75).changed() == ["rivals=4"]
    both = DexAROptions(rivals=4, attention_power=0.0)
    assert both.power == 0.0
    assert both.changed() == ["attention_power=0.0", "rivals=4"]


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "2"])
def test_what_is_no_number_of_rivals_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="rivals must be how many"):
        _dexar().attribute(_input(5), rivals=wrong)


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_more_than_the_vocabulary_are_refused_before_generating(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_vlm()
    dexar = VLMAttribution(LayerDexAR(model, engine=engine), processor)
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(ValueError, match="fewer than the [0-9]+ tokens .* got 900"):
        dexar.attribute(_input(5), rivals=900)


@pytest.mark.parametrize("target", [None, "the image shows a red circle ."])
def test_a_contrast_and_rivals_exclude_each_other(target: str | None) -> None:
    with pytest.raises(ValueError, match="contrast names .* give one of them"):
        _dexar().attribute(_input(5), target, contrast="a blue ring", rivals=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    """Where it has the same rivals, whose order may be a matter of rounding."""
    model, inputs, targets = tiny_vlm(seed=3), prompt_inputs(3), random_targets(4, 3)
    expected = explained(model, inputs, targets, rivals=1)
    halved: Any = copy.deepcopy(model).to(dtype)
    half_inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in inputs.items()
    }
    ours = explained(halved, half_inputs, targets, rivals=1)
    assert ours.token_attr.isfinite().all()
    assert relative_error(ours.token_attr, expected.token_attr) < 0.1
    weights, reference = ours.token_weights, expected.token_weights
    assert weights is not None and reference is not None
    torch.testing.assert_close(weights, reference, atol=0.05, rtol=0.1)
