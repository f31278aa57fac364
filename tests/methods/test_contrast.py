"""Why this token rather than that one."""

from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, Saliency
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.baselines import LayerAttention
from tests.families.cases import CASES
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm

TARGET = [40, 7, 61, 12]
CONTRAST = [40, 7, 33, 9]


@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("name", ["llava", "idefics3", "florence2", "mllama"])
def test_closed_form_equals_autograd(name: str, power: float) -> None:
    """In float64: of two nearly equal logits' difference float32 leaves little."""
    (case,) = [case for case in CASES if case.name == name]
    model = case.model(2, "sdpa").double()
    inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in case.inputs(2, 4).items()
    }
    options: dict[str, Any] = {
        "contrast": torch.tensor([33, 40, 9]),
        "attention_power": power,
    }
    targets = random_targets(4, 2)
    reference = explained(model, inputs, targets, engine="autograd", **options)
    ours = explained(model, inputs, targets, **options)
    # Some models have operations of their own in float32.
    assert_same(ours, reference, 1e-6)
    plain = explained(model, inputs, targets, attention_power=power)
    assert relative_error(ours.layer_attr, plain.layer_attr) > 0.01
    torch.testing.assert_close(ours.layer_attr[:, 3], plain.layer_attr[:, 3])
    torch.testing.assert_close(ours.token_log_probs, plain.token_log_probs)


@pytest.mark.parametrize(
    "method", [LayerDexAR, Saliency, IntegratedGradients, FeatureAblation]
)
def test_identical_prefixes_give_zero(method: Any) -> None:
    model = tiny_vlm(seed=3)
    wrapped = VLMAttribution(method(VLMForward(model)))
    arguments: dict[str, Any] = {"n_steps": 4} if method is IntegratedGradients else {}
    result = wrapped.attribute(
        prompt_inputs(3), target=TARGET, contrast=CONTRAST, **arguments
    )
    assert not result.token_attr[:2].any()
    assert (result.token_attr[2:] != 0).any(1).all()


def test_gradients_of_the_difference() -> None:
    """A gradient is linear: that of a difference is the difference of gradients."""
    model = tiny_vlm(seed=3)
    method = VLMAttribution(Saliency(VLMForward(model)))
    inputs = prompt_inputs(3)
    difference = method.attribute(inputs, target=[40], contrast=[33], abs=False)
    target = method.attribute(inputs, target=[40], abs=False)
    contrast = method.attribute(inputs, target=[33], abs=False)
    expected = target.token_attr - contrast.token_attr
    assert relative_error(difference.token_attr, expected) <= 1e-5


def test_a_string_is_tokenised_once() -> None:
    model, processor = tiny_vlm(seed=3), llava_processor()
    method = VLMAttribution(LayerDexAR(model), processor)
    inputs = prompt_inputs(3)
    ids = processor.tokenizer.encode("a blue square", add_special_tokens=False)
    by_text = method.attribute(inputs, target="a red circle", contrast="a blue square")
    by_ids = method.attribute(inputs, target="a red circle", contrast=ids)
    assert torch.equal(by_text.token_attr, by_ids.token_attr)
    assert not by_text.token_attr[0].any()


@pytest.mark.parametrize("contrast", [[40, 9], [40, 9, 5, 6, 7, 8]])
def test_contrasts_of_another_length(contrast: list[int]) -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm(seed=3)))
    inputs = prompt_inputs(3)
    result = method.attribute(inputs, target=TARGET, contrast=contrast)
    plain = method.attribute(inputs, target=TARGET)
    beyond = len(contrast)
    assert torch.equal(result.token_attr[beyond:], plain.token_attr[beyond:])
    assert not torch.equal(result.token_attr[1], plain.token_attr[1])


def test_attention_has_nothing_to_contrast() -> None:
    method = VLMAttribution(LayerAttention(tiny_vlm()))
    with pytest.raises(TypeError, match="nothing to contrast"):
        method.attribute(prompt_inputs(), target=TARGET, contrast=CONTRAST)


def test_bad_contrasts() -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm()))
    with pytest.raises(ValueError, match="contrast given as a string"):
        method.attribute(prompt_inputs(), target=TARGET, contrast="a blue square")
    with pytest.raises(ValueError, match="vocabulary"):
        method.attribute(prompt_inputs(), target=TARGET, contrast=[99])
