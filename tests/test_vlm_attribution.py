"""The wrapper: generated, given, one pass, step by step, batched, cached."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMAttributionResult
from captum_dexar.comparison import METHODS, named_methods
from captum_dexar.decoding import DecodingSteps, generate, StepAttributions
from captum_dexar.inputs import Prompt
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.tiny_models import (
    IMAGE_TOKEN,
    prompt_inputs,
    random_targets,
    tiny_vlm,
    VARIANTS,
)
from tests.helpers.untouched import untouched, warm
from torch import nn

# Never end early, so that answers have the length that was asked for.
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def _attribute(model: torch.nn.Module, inp: Any, **kwargs: Any) -> VLMAttributionResult:
    return VLMAttribution(LayerDexAR(model)).attribute(inp, **kwargs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_generated_equals_teacher_forced(variant: str) -> None:
    """The first reuses the cache of generating, the second makes its own."""
    model: Any = tiny_vlm(variant, seed=1)
    inputs = prompt_inputs(1, after=3)
    generated = _attribute(model, inputs, gen_args=GREEDY)
    expected = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert torch.equal(generated.target_ids, expected)
    given = _attribute(model, inputs, target=generated.target_ids)
    assert relative_error(generated.token_attr, given.token_attr) <= 1e-5
    assert relative_error(generated.head_weights, given.head_weights) <= 1e-5
    torch.testing.assert_close(
        generated.token_log_probs, given.token_log_probs, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_equals_uncached(variant: str) -> None:
    model, inputs = tiny_vlm(variant, seed=2), prompt_inputs(2, after=3)
    answer = generate(Prompt(model, inputs), GREEDY)
    assert answer.cache is not None and answer.target_logits is not None
    method = LayerDexAR(model)
    generated = DecodingSteps(Prompt(model, inputs), answer.ids)
    on_cache = method.attribute_steps(generated, answer.cache)
    for other in (DecodingSteps, _Full):
        steps = other(Prompt(model, inputs), answer.ids)
        assert_same(on_cache, method.attribute_steps(steps))


class _Full(DecodingSteps):
    def passes(self, cache: Any = None, max_tokens: Any = None) -> Any:
        yield self.full_pass()


@pytest.mark.parametrize(
    "gen_args",
    [
        {"max_new_tokens": 5, "num_beams": 3, "do_sample": False},
        {"max_new_tokens": 5, "do_sample": True, "temperature": 1.5},
        {"max_new_tokens": 5, "do_sample": False, "use_cache": False},
        {"max_new_tokens": 5, "do_sample": False, "cache_implementation": "static"},
    ],
    ids=["beams", "sampling", "no cache", "static cache"],
)
def test_any_way_of_generating_is_explained_as_generated(
    gen_args: dict[str, Any],
) -> None:
    model: Any = tiny_vlm(seed=3)
    inputs = prompt_inputs(3)
    torch.manual_seed(0)
    result = _attribute(model, inputs, gen_args=gen_args)
    torch.manual_seed(0)
    ids = model.generate(**inputs, **gen_args)[0, inputs["input_ids"].shape[1] :]
    assert torch.equal(result.target_ids, ids)
    given = _attribute(model, inputs, target=ids)
    assert relative_error(result.token_attr, given.token_attr) <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_pass_equals_step_by_step(variant: str) -> None:
    """Every token by itself, as the next one after its prefix."""
    model, inputs = tiny_vlm(variant, seed=4), prompt_inputs(4, after=2)
    targets = random_targets(5, 4)
    together = explained(model, inputs, targets)
    method = LayerDexAR(model)
    for step in range(5):
        ids = torch.cat([inputs["input_ids"], targets[:, :step]], dim=1)
        alone = method.attribute(
            inputs["pixel_values"],
            target=targets[:, step],
            additional_forward_args=(ids,),
            normalize=False,
        )
        expected = together.token_attr[:, step].view_as(alone)
        scale = together.token_attr.max()
        assert (alone - expected).abs().max() <= 1e-5 * scale


def test_batch_with_left_padding_equals_singles() -> None:
    for variant in VARIANTS:
        model = tiny_vlm(variant, seed=5)
        short = prompt_inputs(5, before=1, after=2)
        long = prompt_inputs(6, before=6, after=4)
        targets = torch.cat([random_targets(3, 5), random_targets(3, 6)])
        missing = long["input_ids"].shape[1] - short["input_ids"].shape[1]
        padding = torch.zeros(1, missing, dtype=torch.long)
        padded = torch.cat([padding, short["input_ids"]], dim=1)
        mask = torch.ones(2, padded.shape[1], dtype=torch.long)
        mask[0, :missing] = 0
        batch = {
            "input_ids": torch.cat([padded, long["input_ids"]]),
            "pixel_values": torch.cat([short["pixel_values"], long["pixel_values"]]),
            "attention_mask": mask,
        }
        for options in ({}, {"top_k": 4}, {"attention_power": 1.0}):
            together = explained(model, batch, targets, **options)
            for index, single in enumerate((short, long)):
                alone = explained(model, single, targets[index : index + 1], **options)
                assert_same(_example(together, index), alone)


def _example(batch: StepAttributions, index: int) -> StepAttributions:
    return StepAttributions(
        **{
            name: value if value is None else value[index : index + 1]
            for name, value in vars(batch).items()
        }
    )


def test_list_of_layers_equals_sum_of_single_layers() -> None:
    model, inputs, targets = tiny_vlm(seed=6), prompt_inputs(6), random_targets(4, 6)
    together = explained(model, inputs, targets)
    singles = [explained(model, inputs, targets, layers=[i]) for i in range(3)]
    total = torch.stack([single.token_attr for single in singles]).sum(0)
    assert relative_error(total, together.token_attr) <= 1e-6
    for index, single in enumerate(singles):
        assert torch.equal(single.layer_attr[:, :, 0], together.layer_attr[:, :, index])


def test_layers_come_in_the_order_asked_for() -> None:
    model, inputs, targets = tiny_vlm(seed=6), prompt_inputs(6), random_targets(4, 6)
    backwards = explained(model, inputs, targets, layers=[2, 0])
    forwards = explained(model, inputs, targets, layers=[0, 2])
    assert torch.equal(backwards.layer_attr, forwards.layer_attr.flip(2))
    assert torch.equal(backwards.head_weights, forwards.head_weights.flip(2))


def test_fields_have_their_shapes_and_ranges() -> None:
    model, inputs = tiny_vlm(seed=7), prompt_inputs(7)
    result = _attribute(model, inputs, target=[5, 6, 7, 8])
    assert result.token_attr.shape == (4, 16) and result.seq_attr.shape == (16,)
    assert result.token_maps.shape == (4, 4, 4) and result.sequence_map.shape == (4, 4)
    assert result.head_weights.shape == (4, 3, 4)
    assert result.layer_maps.shape == (4, 3, 4, 4)
    assert result.token_weights.shape == result.token_log_probs.shape == (4,)
    assert result.placeless_attr.shape == (4, 0)
    assert result.grid == (4, 4) and len(result.input_tokens) == 16
    assert result.boxes is None and result.image is None
    assert (result.token_attr >= 0).all() and (result.token_log_probs <= 0).all()
    assert result.token_maps.max() == 1 and result.token_maps.min() == 0
    assert result.output_tokens == ["5", "6", "7", "8"]
    torch.testing.assert_close(
        result.layer_maps.sum(1).flatten(1), result.token_attr, rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_sequence_map_is_equation_6(normalize: bool) -> None:
    model, inputs = _visual_model(), prompt_inputs(8)
    result = _attribute(model, inputs, target=[5, 6, 7], normalize=normalize)
    assert result.token_weights.any()
    maps = result.token_maps.flatten(1) if normalize else result.token_attr
    expected = (result.token_weights[:, None] * maps).sum(0)
    torch.testing.assert_close(result.seq_attr, expected, rtol=1e-5, atol=1e-9)
    spread = expected - expected.min()
    torch.testing.assert_close(
        result.sequence_map.flatten(), spread / spread.max(), rtol=1e-5, atol=1e-6
    )


def _visual_model() -> Any:
    """A model whose image outweighs its text, so that weights are not all zero."""
    model: Any = tiny_vlm(seed=8)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
    return model


def test_log_probs_are_the_models_own() -> None:
    model, inputs = tiny_vlm(seed=9), prompt_inputs(9)
    targets = random_targets(4, 9)
    result = explained(model, inputs, targets)
    ids = torch.cat([inputs["input_ids"], targets], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
    log_probs = logits[:, -5:-1].log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(result.token_log_probs, log_probs, rtol=1e-4, atol=1e-4)


def test_an_answer_may_hold_the_image_token_id() -> None:
    """What was generated is explained as generated, whatever it is."""
    model, inputs = tiny_vlm(seed=10), prompt_inputs(10)
    result = _attribute(_visual_model(), inputs, target=[5, IMAGE_TOKEN, 6])
    assert result.token_attr.shape == (3, 16)
    plain = explained(model, inputs, torch.tensor([[5, 7]]))
    odd = explained(model, inputs, torch.tensor([[5, IMAGE_TOKEN]]))
    assert torch.equal(plain.token_attr[:, 0], odd.token_attr[:, 0])


@pytest.mark.parametrize("is_default", [False, True])
def test_several_answers_are_refused_before_any_work(is_default: bool) -> None:
    model: Any = tiny_vlm()
    method = VLMAttribution(LayerDexAR(model))
    several: dict[str, Any] = {"num_return_sequences": 2, "do_sample": True}
    if is_default:
        model.generation_config.update(**several)
        several = {}
    # What finds the parts of the model runs it too.
    method.attribute(prompt_inputs(), [40])
    passes: list[nn.Module] = []
    model.register_forward_pre_hook(lambda module, args: passes.append(module))
    with pytest.raises(ValueError, match="one answer, got num_return_sequences=2"):
        method.attribute(prompt_inputs(), gen_args=several)
    with pytest.raises(ValueError, match="one answer, got num_return_sequences=2"):
        list(method.stream(prompt_inputs(), gen_args=several))
    assert not passes


NEED_ONE_PASS = {
    "feature-ablation",
    "grad-cam",
    "gradient-shap",
    "ig",
    "input-x-gradient",
    "occlusion",
    "rollout",
    "saliency",
    "smooth-grad",
    "tam",
    "tam-all-text",
}


# Shapley values need the original picture.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "shapley"])
def test_the_image_token_id_is_right_or_refused(name: str) -> None:
    """In a pass over prompt and answer the model would take it for the image."""
    inputs = prompt_inputs(10)
    model = warm(tiny_vlm(seed=10), inputs)
    ((method, given),) = named_methods([name], model).values()
    arguments: Any = {**given, **({"n_steps": 2} if name == "ig" else {})}
    explaining = VLMAttribution(method)
    plain = explaining.attribute(inputs, [5, 7, 6], **arguments)
    if name in NEED_ONE_PASS:
        message = "Token 1 of the answer is the image's placeholder"
        with untouched(model), pytest.raises(ValueError, match=message):
            explaining.attribute(inputs, [5, IMAGE_TOKEN, 6], **arguments)
    else:
        odd = explaining.attribute(inputs, [5, IMAGE_TOKEN, 6], **arguments)
        changed = (odd.token_log_probs - plain.token_log_probs).abs()
        assert changed[0] <= 1e-5 and changed[2] > 1e-2
    # What nothing comes after is only predicted.
    explaining.attribute(inputs, [5, 7, IMAGE_TOKEN], **arguments)


def test_the_autograd_engine_refuses_the_image_token_id() -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm(), engine="autograd"))
    with pytest.raises(ValueError, match="the image's placeholder"):
        method.attribute(prompt_inputs(), [5, IMAGE_TOKEN, 6])


def test_progress_is_shown_on_request_only(capfd: pytest.CaptureFixture[str]) -> None:
    model, inputs = tiny_vlm(), prompt_inputs()
    _attribute(model, inputs, gen_args=GREEDY)
    assert capfd.readouterr().err == ""
    _attribute(model, inputs, gen_args=GREEDY, progress=True)
    shown = capfd.readouterr().err
    assert "generating: 100%" in shown and "explaining: 100%" in shown
    _attribute(model, inputs, target=[7, 8, 9], progress=True)
    assert "explaining: 100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "Layer DEX-AR"),
        ({"attention_power": 0.0, "top_k": 1, "head_filter": True}, "Layer DEX-AR"),
        ({"attention_power": 0.5}, "Layer DEX-AR, attention_power=0.5"),
        (
            {"head_filter": False, "top_k": 3},
            "Layer DEX-AR, head_filter=False, top_k=3",
        ),
    ],
)
def test_the_name_says_what_is_not_the_papers(
    options: dict[str, Any], name: str
) -> None:
    model, inputs = tiny_vlm(), prompt_inputs()
    method = VLMAttribution(LayerDexAR(model))
    assert method.attribute(inputs, target=[40, 41], **options).method == name
    assert method.attribute(inputs, gen_args=GREEDY, **options).method == name
    assert next(method.stream(inputs, gen_args=GREEDY, **options)).method == name
