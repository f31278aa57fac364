"""Mistakes with PaliGemma that raise no error, and that are not made here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.target_logits import TargetLogits
from tests.families.cases.paligemma import build, inputs
from torch import Tensor

VERSIONS = {1: "sdpa", 2: "eager"}
every_version = pytest.mark.parametrize("version", VERSIONS)


def generated(model: Any, **changed: Any) -> tuple[Tensor, Tensor]:
    """An answer of four tokens, and the logits it was chosen from."""
    output = model.generate(
        **{**inputs(0, 3), **changed},
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    length = inputs(0, 3)["input_ids"].shape[1]
    return output.sequences[:, length:], torch.stack(output.logits, dim=1)


def difference(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max()).detach())


@every_version
def test_generated_tokens_are_no_part_of_the_prompt(version: int) -> None:
    """Their type is 1; otherwise they would attend to later tokens."""
    model: Any = build(version, 0, VERSIONS[version])
    answer, logits = generated(model)
    whole = DecodingSteps(Prompt(model, inputs(0, 3)), answer).full_pass()
    with torch.no_grad():
        assert difference(whole.logits(), logits) < 1e-5
        for wrong in (torch.zeros_like(whole.inputs["input_ids"]), None):
            spoiled = {**whole.inputs, "token_type_ids": wrong}
            assert difference(replace(whole, inputs=spoiled).logits(), logits) > 0.01


@every_version
def test_a_prompt_has_to_be_run_as_a_whole(version: int) -> None:
    """Its tokens attend to its last one, which a cache of the others does not have; and
    in a layer with a shorter window a pass on a cache sees no farther than that."""
    model: Any = build(version, 0, VERSIONS[version])
    answer, logits = generated(model)
    steps = DecodingSteps(Prompt(model, inputs(0, 3)), answer)
    without_last = {name: value[:, :-1] for name, value in steps.prompt.inputs.items()}
    without_last["pixel_values"] = steps.prompt.inputs["pixel_values"]
    with torch.no_grad():
        half = model(**without_last, use_cache=True).past_key_values
        assert difference(steps.cheapest_pass().logits(), logits) < 1e-5
        assert difference(steps.cached_pass(half).logits(), logits) > 1e-3
        is_short = (
            steps.prompt.adapter.reuse(steps.prompt.inputs, model.config) == "replay"
        )
        error = difference(steps.cached_pass().logits(), logits)
    assert is_short == (version == 1)
    assert (error < 1e-5) == is_short


def test_a_prompt_whose_kinds_of_tokens_are_not_given_is_refused() -> None:
    made = inputs(0, 3)
    del made["token_type_ids"]
    with pytest.raises(ValueError, match="no 'token_type_ids'"):
        VLMAttribution(LayerDexAR(build(1, 0, "sdpa"))).attribute(made, [5])


def test_the_soft_cap_of_the_logits_is_applied() -> None:
    model: Any = build(2, 0, "eager")
    decoder = find_decoder(model)
    assert decoder.description == "a soft cap of 1.5"
    kept: list[Tensor] = []
    handle = decoder.layers[-1].register_forward_hook(
        lambda module, args, output: kept.append(output)
    )
    with torch.no_grad():
        logits = model(**inputs(0, 3)).logits
    handle.remove()
    targets = logits.argmax(-1)
    target_logits = TargetLogits.of(logits, targets)
    LogitLens(decoder, targets).check(kept[0], target_logits)
    uncapped = LogitLens(replace(decoder, logit_transform=lambda raw: raw), targets)
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    assert difference(uncapped.read(kept[0]), chosen) > 0.1
    with pytest.raises(RuntimeError, match="does not reproduce"):
        uncapped.check(kept[0], target_logits)


def test_labels_for_training_are_left_out() -> None:
    method = VLMAttribution(LayerDexAR(build(1, 0, "sdpa")))
    made = inputs(0, 3)
    expected = method.attribute(made, gen_args={"max_new_tokens": 3})
    made["labels"] = torch.full_like(made["input_ids"], -100)
    result = method.attribute(made, gen_args={"max_new_tokens": 3})
    assert torch.equal(result.target_ids, expected.target_ids)
    assert torch.equal(result.token_attr, expected.token_attr)
    others = {name: made[name] for name in ("token_type_ids", "labels")}
    map_of_next = method.attr_method.attribute(
        made["pixel_values"], additional_forward_args=(made["input_ids"], others)
    )
    assert isinstance(map_of_next, Tensor) and map_of_next.shape == (1, 1, 4, 4)
