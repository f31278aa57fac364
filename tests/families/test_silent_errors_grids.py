"""Families with one grid: mistakes that raise no error are not made here."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.families import adapter_for_config
from captum_dexar.families.generic import GenericAdapter
from captum_dexar.inputs import Prompt
from tests.families.cases import other_grids, rope_grids
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.tiny_models import (
    IMAGE_TOKEN,
    prompt_inputs,
    random_targets,
    tiny_vlm,
)

CASES: dict[str, Any] = {
    **dict.fromkeys(rope_grids.VARIANTS, rope_grids),
    **dict.fromkeys(other_grids.VARIANTS, other_grids),
}
# Each computes positions in a way of its own.
POSITIONS = ("cosmos3_edge", "ernie4_5_vl_moe", "qwen2_5_omni_thinker", "hunyuan_vl")
NUM_STEPS = 4
MARGIN = 1e-2


def made(family: str) -> tuple[Any, dict[str, Any]]:
    """A model and the inputs of a prompt."""
    return CASES[family].build(family), CASES[family].inputs(family, 0, 4)


@pytest.mark.parametrize("family", POSITIONS)
def test_all_steps_have_the_positions_of_generating(family: str) -> None:
    model, inputs = made(family)
    output = model.generate(
        **inputs,
        max_new_tokens=NUM_STEPS,
        do_sample=False,
        eos_token_id=-1,
        suppress_tokens=[IMAGE_TOKEN],
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = output.sequences[0, inputs["input_ids"].shape[1] :]
    expected = torch.cat(output.logits).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    ours = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=ids)
    torch.testing.assert_close(ours.token_log_probs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", POSITIONS)
def test_an_offset_of_another_prompt_is_not_used(family: str) -> None:
    model, inputs = made(family)
    targets = random_targets(NUM_STEPS)
    fresh = explained(model, inputs, targets)
    other = CASES[family].inputs(family, 2, 9)
    with torch.no_grad():
        model(**other)
    assert_same(explained(model, inputs, targets), fresh, 0.0)


def test_the_experts_of_ernie_are_those_of_the_image() -> None:
    model, inputs = made("ernie4_5_vl_moe")
    targets = random_targets(NUM_STEPS)
    right = explained(model, inputs, targets, head_filter=False).token_attr
    without = {k: v for k, v in inputs.items() if k != "moe_mm_token_type_ids"}
    # Past our check of the inputs the model runs, and the map differs.
    wrong = explained(model, without, targets, head_filter=False).token_attr
    assert relative_error(wrong, right) > MARGIN
    with pytest.raises(ValueError, match="no 'moe_mm_token_type_ids'"):
        VLMAttribution(LayerDexAR(model)).attribute(without, target=[5])


# -- Inputs with an entry per token


def test_types_of_tokens_grow_with_the_answer() -> None:
    inputs: dict[str, Any] = dict(prompt_inputs())
    length = inputs["input_ids"].shape[1]
    inputs["token_type_ids"] = torch.ones_like(inputs["input_ids"])
    steps = DecodingSteps(Prompt(tiny_vlm(), inputs), random_targets(NUM_STEPS))
    grown = steps.full_pass().inputs["token_type_ids"][0]
    assert grown.tolist() == [1] * length + [0] * (NUM_STEPS - 1)


def test_an_input_per_token_that_is_not_known_is_refused() -> None:
    model, inputs = tiny_vlm(), dict(prompt_inputs())
    inputs["routes"] = torch.ones_like(inputs["input_ids"])
    pixels, ids = inputs["pixel_values"], inputs["input_ids"]
    with pytest.raises(ValueError, match="'routes' .* each of the 27 tokens"):
        VLMAttribution(LayerDexAR(model)).attribute(inputs, target=[5])
    with pytest.raises(ValueError, match="'routes' .* each of the 27 tokens"):
        arguments = (ids, {"routes": inputs["routes"]})
        LayerDexAR(model).attribute(pixels, additional_forward_args=arguments)


# -- Image tokens that a grid does not account for


def test_a_grid_that_is_too_small_is_refused_where_the_family_is_not_known() -> None:
    """Newlines between the rows are image tokens, too."""
    model, inputs = made("hunyuan_vl")
    num_tokens = int((inputs["input_ids"] == IMAGE_TOKEN).sum())
    with pytest.raises(ValueError, match="image_grid_thw describes 1 images.*grid="):
        GenericAdapter().layout(
            inputs, num_tokens, image_sizes=None, config=model.config
        )


def test_newlines_have_no_place() -> None:
    model, inputs = made("hunyuan_vl")
    layout = adapter_for_config(model.config).layout(
        inputs, 10, image_sizes=None, config=model.config
    )
    assert layout.placed.tolist() == [1, 2, 3, 5, 6, 7]
    result = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=[5, 6])
    assert result.token_attr.shape == (2, 6)
    assert result.placeless_attr is not None
    assert result.placeless_attr.shape == (2, 4)
