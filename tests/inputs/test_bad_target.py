"""Targets that can't be explained, and what LayerDexAR takes besides its target."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from PIL import Image
from tests.helpers.processors import CROP, llava_processor
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm, VOCABULARY
from tests.helpers.untouched import untouched, warm

MODEL: Any = warm(tiny_vlm(), prompt_inputs())
PROCESSOR = llava_processor(CROP)
PIXELS = prompt_inputs()["pixel_values"]
IDS = prompt_inputs()["input_ids"]

Case = tuple[Any, type[Exception], str]

ANSWERS: dict[str, Case] = {
    "empty list": ([], ValueError, "target is empty"),
    "empty tensor": (torch.tensor([], dtype=torch.long), ValueError, "is empty"),
    "empty string": ("", ValueError, "target is empty"),
    "out of vocabulary": ([5, VOCABULARY], ValueError, r"0 to 98, got \[99\]"),
    "negative": (torch.tensor([5, -1]), ValueError, r"0 to 98, got \[-1\]"),
    "float": ([5.0, 6.0], TypeError, "must be integers, got torch.float32"),
    "NaN": ([torch.nan], TypeError, "must be integers"),
    "bool": ([True, False], TypeError, "must be integers, got torch.bool"),
    "complex": (torch.tensor([5j]), TypeError, "must be integers"),
    "2-D": (torch.tensor([[5, 6]]), ValueError, r"1-D.*got shape \(1, 2\)"),
    "one id": (5, ValueError, "must be 1-D"),
    "ragged": ([[5], [6, 7]], TypeError, "list of ids, got list"),
    "strings": (["red", "circle"], TypeError, "list of ids, got list"),
    "a mapping": ({"ids": [5]}, TypeError, "list of ids, got dict"),
    "an object": (object(), TypeError, "list of ids, got object"),
    "bytes": (b"red", TypeError, "got bytes"),
    "unknown words": (
        "a zebra left of a red yak .",
        ValueError,
        "does not know 'zebra', 'yak' in the {name}, and would read '<unk>'",
    ),
    "an unknown word beside the token for unknown words": (
        "a <unk> zebra",
        ValueError,
        "does not know 'zebra'",
    ),
}

TOKENS: dict[str, Case] = {
    "empty": ([], ValueError, "one id"),
    "out of vocabulary": (VOCABULARY, ValueError, r"0 to 98, got \[99\]"),
    "negative": (torch.tensor(-1), ValueError, r"0 to 98, got \[-1\]"),
    "float": (5.0, TypeError, "must be integers, got torch.float32"),
    "bool": (True, TypeError, "must be integers, got torch.bool"),
    "too many": ([5, 6], ValueError, "one for each of 1 examples"),
    "2-D": (torch.tensor([[5]]), ValueError, r"got shape \(1, 1\)"),
    "a string": ("red", TypeError, "must be a vocabulary id.*got str"),
    "a mapping": ({"ids": 5}, TypeError, "must be a vocabulary id.*got dict"),
    "an object": (object(), TypeError, "must be a vocabulary id.*got object"),
}


@pytest.mark.parametrize("case", ANSWERS.values(), ids=list(ANSWERS))
def test_answers_that_cannot_be_explained(case: Case) -> None:
    target, error, message = case
    dexar = VLMAttribution(LayerDexAR(MODEL), PROCESSOR)
    for name in ("target", "contrast"):
        given = {"target": [40, 41], name: target}
        expected = message.format(name=name).replace("target", name)
        with untouched(MODEL), pytest.raises(error, match=expected) as raised:
            dexar.attribute(prompt_inputs(), **given)
        assert type(raised.value) is error
        assert (name == "target") or "target" not in str(raised.value)


@pytest.mark.parametrize("case", TOKENS.values(), ids=list(TOKENS))
def test_tokens_that_cannot_be_explained(case: Case) -> None:
    target, error, message = case
    method = LayerDexAR(MODEL)
    with untouched(MODEL), pytest.raises(error, match=message) as raised:
        method.attribute(PIXELS, target, (IDS,))
    assert type(raised.value) is error


def test_an_answer_is_given_or_generated_not_both() -> None:
    dexar = VLMAttribution(LayerDexAR(MODEL))
    with untouched(MODEL), pytest.raises(ValueError, match="Leave one of them out"):
        dexar.attribute(prompt_inputs(), [5], gen_args={"max_new_tokens": 2})


def test_a_string_needs_a_processor() -> None:
    dexar = VLMAttribution(LayerDexAR(MODEL))
    with untouched(MODEL), pytest.raises(ValueError, match="needs a processor"):
        dexar.attribute(prompt_inputs(), "a red circle")


def test_a_string_is_tokenised_once_without_special_tokens() -> None:
    image = Image.fromarray(np.full((40, 60, 3), 100, dtype=np.uint8))
    inp = ImagePromptInput(image, "what is in the image ?", PROCESSOR)
    dexar = VLMAttribution(LayerDexAR(MODEL), PROCESSOR)
    ids = [PROCESSOR.tokenizer.get_vocab()[word] for word in "a red circle".split()]
    result = dexar.attribute(inp, "a red circle")
    assert result.target_ids.tolist() == ids
    assert result == dexar.attribute(inp, ids)
    assert result == dexar.attribute(inp, torch.tensor(ids, dtype=torch.int32))


def test_a_generated_token_for_unknown_words_is_no_unknown_word() -> None:
    image = Image.fromarray(np.full((40, 60, 3), 100, dtype=np.uint8))
    inp = ImagePromptInput(image, "what is in the image ?", PROCESSOR)
    dexar = VLMAttribution(LayerDexAR(MODEL), PROCESSOR)
    unknown = PROCESSOR.tokenizer.unk_token_id
    for given, count in (("a <unk> circle", 3), ("<unk><unk>", 2)):
        ids = dexar.attribute(inp, given).target_ids.tolist()
        assert len(ids) == count
        assert ids.count(unknown) == given.count("<unk>")


@pytest.mark.parametrize(
    "gen_args, message",
    [
        (
            {"max_new_tokens": 2, "num_beams": 2, "num_return_sequences": 2},
            "one answer",
        ),
        ({"max_new_tokens": 2, "colour": "red"}, "colour"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
    ids=["two answers", "unknown argument", "no token"],
)
def test_answers_that_cannot_be_generated(
    gen_args: dict[str, Any], message: str
) -> None:
    dexar = VLMAttribution(LayerDexAR(MODEL))
    with untouched(MODEL), pytest.raises(ValueError, match=message):
        dexar.attribute(prompt_inputs(), gen_args=gen_args)


TWO = prompt_inputs(batch=2)
PADDED = torch.ones_like(TWO["input_ids"])
PADDED[0, -2:] = 0

ARGUMENTS: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "no tensor": (
        lambda method: method.attribute(None, 5, (IDS,)),
        TypeError,
        "inputs must be the pixel_values tensor",
    ),
    "two inputs": (
        lambda method: method.attribute((PIXELS, IDS), 5),
        TypeError,
        "ids belong to additional_forward_args",
    ),
    "no ids": (
        lambda method: method.attribute(PIXELS, 5),
        ValueError,
        r"must be \(input_ids, other_model_inputs\)",
    ),
    "too many arguments": (
        lambda method: method.attribute(PIXELS, 5, (IDS, {}, {})),
        ValueError,
        "got 3",
    ),
    "ids as a list": (
        lambda method: method.attribute(PIXELS, 5, (IDS.tolist(),)),
        TypeError,
        "got list as input_ids",
    ),
    "a mask instead of a mapping": (
        lambda method: method.attribute(PIXELS, 5, (IDS, torch.ones_like(IDS))),
        TypeError,
        "must be a mapping",
    ),
    "pixels twice": (
        lambda method: method.attribute(PIXELS, 5, (IDS, {"pixel_values": PIXELS})),
        ValueError,
        "must not hold 'pixel_values'",
    ),
    "numbers of examples that differ": (
        lambda method: method.attribute(PIXELS, 5, (TWO["input_ids"],)),
        ValueError,
        "input_ids has 2 examples, but pixel_values has 1",
    ),
    "targets for fewer examples": (
        lambda method: method.attribute(
            TWO["pixel_values"].repeat(2, 1, 1, 1)[:3], [5, 6], (IDS,)
        ),
        ValueError,
        "one for each of 3 examples",
    ),
    "no image token": (
        lambda method: method.attribute(PIXELS, 5, (torch.tensor([[1, 5, 6]]),)),
        ValueError,
        "no image token",
    ),
    "NaN pixels": (
        lambda method: method.attribute(PIXELS * torch.nan, 5, (IDS,)),
        ValueError,
        "NaN or infinite",
    ),
    "padding on the right": (
        lambda method: method.attribute(
            TWO["pixel_values"], 5, (TWO["input_ids"], {"attention_mask": PADDED})
        ),
        ValueError,
        "on the left",
    ),
    "an unknown argument": (
        lambda method: method.attribute(PIXELS, 5, (IDS,), heads=3),
        TypeError,
        "unexpected keyword argument 'heads'",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_arguments_of_the_method(
    case: tuple[Callable[[Any], object], type[Exception], str],
) -> None:
    call, error, message = case
    method = LayerDexAR(MODEL)
    with untouched(MODEL), pytest.raises(error, match=message) as raised:
        call(method)
    assert type(raised.value) is error
