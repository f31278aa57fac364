"""Models whose encoder reads the image alone: what is special about them."""

from functools import partial
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases import image_encoders
from tests.helpers.at_softmax import at_softmax, exact
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from torch import Tensor

CASES = image_encoders.CASES
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LONG = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}


def prefixes(prompt: Prompt, answer: Tensor) -> list[dict[str, Any]]:
    return [
        {
            **prompt.inputs,
            "decoder_input_ids": torch.cat([prompt.ids, answer[None, :step]], dim=1),
        }
        for step in range(len(answer))
    ]


@every_case
def test_generated_streamed_and_given_equal_autograd_at_the_softmax(
    case: FamilyCase,
) -> None:
    model, inputs = case.model(0, "sdpa"), case.inputs(0, 0)
    method = VLMAttribution(LayerDexAR(model))
    generated = method.attribute(inputs, gen_args=LONG)
    given = method.attribute(inputs, target=generated.target_ids)
    streamed = list(method.stream(inputs, gen_args=LONG))
    prompt, answer = Prompt(model, inputs), generated.target_ids
    reference: Any = exact(model)
    keys = prompt.image_keys[0]
    token_attr, weights, heads = at_softmax(
        reference,
        find_decoder(reference).layers,
        prefixes(prompt, answer),
        answer,
        (None, lambda num_keys: keys),
    )
    scale = float(heads.max())
    assert scale > 0
    placed = prompt.layout.placed
    for result in (generated, given):
        error = relative_error(result.token_attr, token_attr[:, placed])
        assert error <= case.tolerance
        torch.testing.assert_close(
            result.token_weights.double(), weights, rtol=0, atol=case.tolerance * scale
        )
        assert relative_error(result.head_weights, heads) <= case.tolerance
    every = torch.cat([one.token_attr for one in streamed])
    assert relative_error(every, token_attr[:, placed]) <= case.tolerance


@every_case
def test_a_list_equals_single_inputs(case: FamilyCase) -> None:
    model = case.model(0, "sdpa")
    method = VLMAttribution(LayerDexAR(model))
    inputs = [case.inputs(seed, 0) for seed in (0, 1, 2)]
    for more in ({"gen_args": LONG}, {"target": [[40, 41], [42], [43, 44, 45]]}):
        together = method.attribute(inputs, **more)
        for index, (one, result) in enumerate(zip(inputs, together)):
            only = dict(more)
            if "target" in more:
                only["target"] = more["target"][index]
            single = method.attribute(one, **only)
            assert relative_error(result.token_attr, single.token_attr) <= 1e-5


@every_case
def test_captums_arguments(case: FamilyCase) -> None:
    """Ids are the decoder's, and may be left out."""
    model, inputs = case.model(0, "sdpa"), case.inputs(0, 0)
    prompt = Prompt(model, inputs)
    others = dict(inputs)
    pixels = others.pop(prompt.adapter.pixel_input)
    ids = others.pop("decoder_input_ids", None)
    with torch.no_grad():
        logits = VLMForward(model)(pixels, ids, others)
        expected = model(**prompt.inputs).logits[:, -1]
    torch.testing.assert_close(logits, expected)
    target = expected.argmax(-1)
    maps = LayerDexAR(model).attribute(
        pixels, additional_forward_args=(ids, others), normalize=False
    )
    (view,) = prompt.layout.views
    given = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=target)
    torch.testing.assert_close(
        maps[0, 0].flatten(), given.token_attr[0].float().view(-1), rtol=1e-4, atol=1e-7
    )
    assert maps.shape[2:] == view.grid
