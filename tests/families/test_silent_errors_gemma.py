"""Mistakes with Gemma 3, Gemma 4 and Llama 4 that raise no error."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.families import adapter_for_processor
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases.gemma import (
    BEGIN_OF_IMAGE,
    gemma3,
    gemma3_inputs,
    gemma4,
    gemma4_inputs,
)
from tests.helpers.blocks import dark_image
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.idefics3_gemma_processors import (
    gemma3_processor,
    special_tokenizer,
    without_class_checks,
)
from tests.helpers.tiny_models import IMAGE_TOKEN, random_targets
from torch import nn, Tensor
from transformers import Llama4Processor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

TARGETS = random_targets(4)


def own_log_probs(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The targets' own, from the model itself in one pass over ids and targets."""
    grown = dict(inputs)
    grown["input_ids"] = torch.cat([inputs["input_ids"], TARGETS[:, :-1]], dim=1)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            zeros = torch.zeros_like(TARGETS[:, :-1])
            grown[name] = torch.cat([inputs[name], zeros], dim=1)
    with torch.no_grad():
        logits = model(**grown).logits[:, -TARGETS.shape[1] :]
    return logits.log_softmax(-1).gather(-1, TARGETS[..., None])[..., 0]


@pytest.mark.parametrize(
    ("family", "name"),
    [("gemma3", "token_type_ids"), ("gemma4", "mm_token_type_ids")],
)
def test_without_token_types_image_tokens_see_only_earlier_ones(
    family: str, name: str
) -> None:
    if family == "gemma3":
        model, inputs = gemma3(0, "sdpa"), gemma3_inputs(0, 3)
    else:
        model = gemma4("gemma4_bidirectional", 0, "sdpa")
        inputs = gemma4_inputs(0, 3)
    without = {key: value for key, value in inputs.items() if key != name}
    right, wrong = own_log_probs(model, inputs), own_log_probs(model, without)
    assert (right - wrong).abs().max() > 1e-2
    ours = explained(model, inputs, TARGETS).token_log_probs
    torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=name):
        VLMAttribution(LayerDexAR(model)).attribute(without, target=TARGETS[0])


def test_generated_tokens_of_gemma3_are_no_image() -> None:
    steps = DecodingSteps(Prompt(gemma3(0, "sdpa"), gemma3_inputs(0, 3)), TARGETS)
    for step, prefix in enumerate(steps.prefixes()):
        types = prefix["token_type_ids"]
        assert types.shape == prefix["input_ids"].shape
        assert types[0, -step - 1 :].sum() == 0
        assert torch.equal(types == 1, prefix["input_ids"] == IMAGE_TOKEN)


def test_the_processor_of_gemma3_names_the_wrong_token() -> None:
    model, processor = gemma3(0, "sdpa"), gemma3_processor()
    assert processor.image_token_id == BEGIN_OF_IMAGE != IMAGE_TOKEN
    assert adapter_for_processor(processor).image_token_id(processor) == IMAGE_TOKEN
    image = dark_image(40, 60)
    for known in (model, None):
        inp = ImagePromptInput(image, "what is left ?", processor, known)
        ids = inp.to_model_input()["input_ids"]
        assert (ids == processor.image_token_id).sum() == 1
        assert inp.layout.num_tokens == 16


def test_gemma3_does_not_apply_the_soft_cap_that_it_declares() -> None:
    cap = 0.5
    model: Any = gemma3(0, "sdpa", final_logit_softcapping=cap)
    assert model.config.text_config.final_logit_softcapping == cap
    inputs = gemma3_inputs(0, 3)
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state[:, -1:]
        logits = model(**inputs).logits[:, -1:]
        capped = cap * torch.tanh(model.lm_head(hidden) / cap)
    assert relative_error(capped, logits) > 0.1
    decoder = find_decoder(model)
    torch.testing.assert_close(decoder.logit_transform(logits), logits)
    ours = explained(model, inputs, TARGETS)
    assert_same(ours, explained(model, inputs, TARGETS, engine="autograd"))
    torch.testing.assert_close(
        ours.token_log_probs, own_log_probs(model, inputs), rtol=1e-5, atol=1e-5
    )


def test_gemma4_applies_the_soft_cap_that_it_declares() -> None:
    model: Any = gemma4("gemma4", 0, "sdpa")
    cap = model.config.text_config.final_logit_softcapping
    logits = torch.tensor([[-3.0, 0.5, 5.0]])
    expected = cap * torch.tanh(logits / cap)
    torch.testing.assert_close(find_decoder(model).logit_transform(logits), expected)
    assert relative_error(logits, expected) > 0.1


def test_gemma4_breaks_under_an_attention_of_another_name() -> None:
    model: Any = gemma4("gemma4_shared_kv", 0, "sdpa")
    inputs = gemma4_inputs(0, 3)
    grown = DecodingSteps(Prompt(model, inputs), TARGETS).full_pass().inputs
    num_steps = TARGETS.shape[1]
    with torch.no_grad():
        right = model(**grown).logits[:, -num_steps:]
        attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
        renamed = "sdpa_of_another_name"
        ALL_ATTENTION_FUNCTIONS.register(renamed, attention)
        masks = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
        ALL_MASK_ATTENTION_FUNCTIONS.register(renamed, masks)
        try:
            model.set_attn_implementation(renamed)
            wrong = model(**grown, logits_to_keep=num_steps).logits
        finally:
            model.set_attn_implementation("sdpa")
            for functions in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
                functions._global_mapping.pop(renamed)
    assert (right - wrong).abs().max() > 1e-2
    steps = DecodingSteps(Prompt(model, inputs), TARGETS)
    with torch.no_grad():
        for ours in (steps.full_pass().logits(), steps.cached_pass().logits()):
            torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)


def test_the_processor_of_llama4_names_the_wrong_token() -> None:
    ids = {"<|image|>": BEGIN_OF_IMAGE, "<|patch|>": IMAGE_TOKEN}
    with without_class_checks():
        processor = Llama4Processor(SimpleNamespace(), special_tokenizer(ids))
    assert processor.image_token_id == BEGIN_OF_IMAGE
    adapter = adapter_for_processor(processor)
    assert adapter.image_token_id(processor) == IMAGE_TOKEN
    assert adapter.placeholder(processor) == "<|image|>"
