"""Mistakes that raise no error: each is shown to matter, and not to be made here."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.decoding import DecodingSteps
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs import Prompt
from tests.families.cases import patch_grid, pixtral
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.family_case import left_padded_batch
from tests.helpers.tiny_models import IMAGE_TOKEN, random_targets
from torch import Tensor

MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "glm46v")
NUM_STEPS = 4
# The least change that counts as one, relative to the largest correct value.
MARGIN = 1e-2

mrope = pytest.mark.parametrize("family", MROPE)


def generated(model: Any, inputs: Any) -> tuple[Tensor, Tensor]:
    """The model's own answer, and its log-probabilities, ``(steps, vocabulary)``."""
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
    return ids, torch.cat(output.logits).log_softmax(-1)


# -- Dropped token types: positions of one axis instead of three


@mrope
def test_all_steps_have_the_positions_of_generating(family: str) -> None:
    """The growing prompt keeps its positions of three axes, with padding or without."""
    model, inputs = patch_grid.build(family), patch_grid.inputs(family, 0, 4)
    ids, log_probs = generated(model, inputs)
    ours = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=ids)
    torch.testing.assert_close(
        ours.token_log_probs, log_probs.gather(1, ids[:, None])[:, 0], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_5_vl_sliding"])
def test_without_token_types_the_positions_would_be_others(family: str) -> None:
    """Qwen2.5-VL raises no error, unlike the others."""
    model, inputs = patch_grid.build(family), patch_grid.inputs(family, 0, 4)
    without = {k: v for k, v in inputs.items() if k != "mm_token_type_ids"}
    targets = random_targets(NUM_STEPS)
    right = explained(model, inputs, targets, head_filter=False).token_attr
    # Past our check of the inputs the model runs, and the map differs.
    wrong = explained(model, without, targets, head_filter=False).token_attr
    assert relative_error(wrong, right) > MARGIN


@mrope
def test_inputs_without_token_types_are_refused(family: str) -> None:
    model, inputs = patch_grid.build(family), patch_grid.inputs(family, 0, 4)
    pixels, ids = inputs.pop("pixel_values"), inputs.pop("input_ids")
    inputs.pop("mm_token_type_ids")
    with pytest.raises(ValueError, match="no 'mm_token_type_ids'"):
        VLMAttribution(LayerDexAR(model)).attribute(
            {"pixel_values": pixels, "input_ids": ids, **inputs}, target=[5]
        )
    with pytest.raises(ValueError, match="no 'mm_token_type_ids'"):
        LayerDexAR(model).attribute(pixels, additional_forward_args=(ids, inputs))


# -- The offset of positions that a model keeps from its last prompt


@mrope
@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_an_offset_of_another_prompt_is_not_used(family: str, engine: str) -> None:
    model, inputs = patch_grid.build(family), patch_grid.inputs(family, 0, 4)
    targets = random_targets(NUM_STEPS)
    fresh = explained(model, inputs, targets, engine=engine)
    text = inputs["input_ids"][:, -5:]
    model.generate(input_ids=text, max_new_tokens=2, do_sample=False)
    assert model.model.rope_deltas.item() == 0
    assert_same(explained(model, inputs, targets, engine=engine), fresh, 0.0)


@mrope
def test_decoding_goes_on_after_explaining_as_if_nothing_were(family: str) -> None:
    """The user's own cache, whose next position is shifted by the model's offset."""
    model, inputs = patch_grid.build(family), patch_grid.inputs(family, 0, 4)
    other = patch_grid.inputs(family, 1, 9)
    # An image of another size, and so another offset.
    other["image_grid_thw"] = torch.tensor([[1, 2, 12]])

    def next_logits(between: Any) -> Tensor:
        with torch.no_grad():
            prompt = model(**inputs, use_cache=True)
        between()
        with torch.no_grad():
            step: Tensor = model(
                input_ids=torch.tensor([[7]]),
                past_key_values=prompt.past_key_values,
                use_cache=True,
            ).logits
        return step

    def run_the_model() -> None:
        with torch.no_grad():
            model(**other)

    expected = next_logits(lambda: None)
    # Just running the model on another prompt changes the offset.
    assert relative_error(next_logits(run_the_model), expected) > MARGIN
    method, forward = LayerDexAR(model), VLMAttribution(LayerDexAR(model))
    reference = VLMAttribution(LayerDexAR(model, engine="autograd"))
    rest = dict(other)
    pixels, ids = rest.pop("pixel_values"), rest.pop("input_ids")
    for explain in (
        lambda: forward.attribute(other, gen_args={"max_new_tokens": 2}),
        lambda: forward.attribute(other, target=[5, 6]),
        lambda: reference.attribute(other, target=[5, 6]),
        lambda: method.attribute(pixels, additional_forward_args=(ids, rest)),
    ):
        assert torch.equal(next_logits(explain), expected)


# -- Tokens at the ends of rows are no image tokens


@pytest.mark.parametrize("family", ["pixtral", "mistral3"])
def test_tokens_at_the_ends_of_rows_are_text(family: str) -> None:
    model, inputs = pixtral.build(family), pixtral.inputs(family, 0, 3)
    rows, columns = 4, 5
    keys = adapter_for_config(model.config).image_keys(inputs, model.config)[0]
    in_a_row = torch.arange(3, 3 + rows * columns)
    expected = (
        3 + (columns + 1) * torch.arange(rows)[:, None] + torch.arange(columns)
    ).flatten()
    assert torch.equal(keys, expected)
    ends = inputs["input_ids"][0, 3 : 3 + rows * (columns + 1)]
    assert ends[columns :: columns + 1].tolist() == [pixtral.IMAGE_BREAK] * 3 + [
        pixtral.IMAGE_END
    ]
    # Pixels reach the text model at the image tokens, and nowhere else.
    seen: list[Tensor] = []
    layer = model.get_decoder().layers[0]
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].detach()))
    with torch.no_grad():
        model(**inputs)
        model(**{**inputs, "pixel_values": inputs["pixel_values"] + 1.0})
    changed = (seen[1] - seen[0]).abs().amax(1) > 1e-5
    assert torch.equal(changed.nonzero()[:, 0], keys)
    # With as many of the first tokens taken for the image, the map differs.
    targets = random_targets(NUM_STEPS)
    right = explained(model, inputs, targets, head_filter=False)
    steps = DecodingSteps(Prompt(model, inputs), targets)
    steps.prompt.image_keys = in_a_row[None]
    wrong = LayerDexAR(model).attribute_steps(steps, head_filter=False)
    assert relative_error(wrong.token_attr, right.token_attr) > MARGIN


# -- Patches of all examples in one list


@pytest.mark.parametrize("family", [*patch_grid.VARIANTS, *pixtral.VARIANTS])
def test_a_batch_of_flat_pixels_equals_its_examples(family: str) -> None:
    case: Any = pixtral if family in pixtral.VARIANTS else patch_grid
    model = case.build(family)
    examples = [case.inputs(family, seed, before) for seed, before in ((0, 2), (2, 5))]
    target = [7, 8]

    def maps(inputs: Any, target: Any) -> Tensor:
        rest = dict(inputs)
        pixels, ids = rest.pop("pixel_values"), rest.pop("input_ids")
        attr = LayerDexAR(model).attribute(
            pixels,
            target=target,
            additional_forward_args=(ids, rest),
            normalize=False,
            head_filter=False,
        )
        assert isinstance(attr, Tensor)
        return attr

    batch = maps(left_padded_batch(model, examples), target)
    singles = [maps(example, [id]) for example, id in zip(examples, target)]
    assert relative_error(batch, torch.cat(singles)) < 1e-5
    other = left_padded_batch(model, [examples[0], case.inputs(family, 1, 5)])
    with pytest.raises(ValueError, match="images of the same grid"):
        maps(other, target)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "video_llama_3", "mistral3"])
def test_captum_may_repeat_flat_pixels(family: str) -> None:
    """As Integrated Gradients does, to evaluate several points at once."""
    case: Any = pixtral if family in pixtral.VARIANTS else patch_grid
    model, rest = case.build(family), case.inputs(family, 0, 4)
    pixels, ids = rest.pop("pixel_values"), rest.pop("input_ids")
    rest["attention_mask"] = torch.ones_like(ids)
    forward = VLMForward(model)
    points = [pixels, 0.5 * pixels, torch.zeros_like(pixels)]
    with torch.no_grad():
        together = forward(torch.cat(points), ids.repeat(3, 1), rest)
        singly = torch.cat([forward(point, ids, rest) for point in points])
    assert relative_error(together, singly) < 1e-5
