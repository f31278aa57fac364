"""Every argument of ``generate``: the right explanation, or a clear refusal.

``python -m tests.right_or_refused`` prints the whole table.
"""

import inspect

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.right_or_refused.argument import Argument, GREEDY
from tests.right_or_refused.arguments import (
    ARGUMENTS,
    BEAMS,
    CACHES,
    ENDS,
    named,
    SAMPLING,
    SCORES,
)
from tests.right_or_refused.cells import outcome
from tests.right_or_refused.settings import setting_of
from tests.right_or_refused.ways import (
    ATTRIBUTE,
    AUTOGRAD_STREAM,
    GIVEN,
    LIST,
    PADDED_LIST,
    STREAM,
    Way,
)
from transformers import GenerationConfig, GenerationMixin

# Settings that no call of generate takes, or that have no effect on an answer here.
LEFT_OUT = {
    "assistant_confidence_threshold",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "continuous_batching_config",
    "diversity_penalty",
    "max_matching_ngram_size",
    "negative_prompt_attention_mask",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
}
# An argument of every kind, in the way that tells most about it.
KINDS = (
    ("num_beams=2", PADDED_LIST),
    ("num_beams=2, eos_token_id=the second token", ATTRIBUTE),
    ("do_sample=True, top_k=0", LIST),
    ("guidance_scale=1.5", ATTRIBUTE),
    ("guidance_scale=1.5", STREAM),
    ("repetition_penalty=1.8", STREAM),
    ("max_length", PADDED_LIST),
    ("stopping_criteria", LIST),
    ("cache_implementation='static'", ATTRIBUTE),
    ("cache_implementation='static'", STREAM),
    ("use_cache=False", ATTRIBUTE),
    ("prefill_chunk_size=5", STREAM),
    ("prompt_lookup_num_tokens=2", ATTRIBUTE),
)
CORE = ("qwen2_5_vl", "gemma3", "mllama", "florence2")

every_argument = pytest.mark.parametrize(
    "argument", ARGUMENTS, ids=lambda argument: argument.name
)


def check(
    argument: Argument,
    way: Way,
    family: str = "llava",
    dtype: torch.dtype = torch.float32,
) -> None:
    of_cell = outcome(setting_of(family, dtype=dtype), argument, way)
    assert of_cell.kind in ("right", "refused"), of_cell.text


def test_no_argument_is_left_out() -> None:
    taken = set(GenerationConfig().to_dict())
    taken |= set(inspect.signature(GenerationMixin.generate).parameters)
    tried = " ".join(argument.name + " " + argument.named for argument in ARGUMENTS)
    missing = {
        name for name in taken - LEFT_OUT - {"self", "kwargs"} if name not in tried
    }
    assert not {name for name in missing if not name.startswith("_")}


@every_argument
def test_attribute(argument: Argument) -> None:
    check(argument, ATTRIBUTE)


@every_argument
def test_stream(argument: Argument) -> None:
    check(argument, STREAM)


@pytest.mark.parametrize(
    "argument",
    [*BEAMS, *SCORES, *ENDS, named("generation_config, num_beams=2")],
    ids=lambda argument: argument.name,
)
def test_list(argument: Argument) -> None:
    """Prompts of different lengths; drawn answers depend on the batch."""
    check(argument, LIST if argument.is_random else PADDED_LIST)


@pytest.mark.parametrize("argument", SAMPLING[:2], ids=lambda argument: argument.name)
def test_list_of_drawn_answers(argument: Argument) -> None:
    check(argument, LIST)


@pytest.mark.parametrize("argument", CACHES, ids=lambda argument: argument.name)
def test_stream_by_autograd(argument: Argument) -> None:
    """Each token is explained after the pass that has chosen it."""
    check(argument, AUTOGRAD_STREAM)


@pytest.mark.parametrize("way", [ATTRIBUTE, LIST, STREAM], ids=str)
def test_paged_generation(way: Way) -> None:
    """It is another way of generating, which takes minutes: refused beforehand."""
    setting = setting_of("llava")
    method = VLMAttribution(LayerDexAR(setting.model))
    with pytest.raises(ValueError, match="cache_implementation"):
        way.run(method, setting.prompts(way.before), {"cache_implementation": "paged"})


@pytest.mark.parametrize("way", [ATTRIBUTE, PADDED_LIST], ids=str)
def test_beams_where_images_are_not_encoded_before(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of older versions do not say that they take images: ``generate`` then
    repeats each patch of a grid for itself, but whole pictures as it should."""
    two = {**GREEDY, "num_beams": 2}
    for family in ("llava", "qwen2_vl"):
        setting = setting_of(family)
        monkeypatch.setattr(type(setting.model), "input_modalities", ("text",))
        method = VLMAttribution(LayerDexAR(setting.model))
        prompts = setting.prompts(way.before)
        if family == "llava":
            assert way.run(method, prompts, two)
        else:
            with pytest.raises(ValueError, match="repeats rows of pixels one by one"):
                way.run(method, prompts, two)


@pytest.mark.parametrize("name", sorted({name for name, _ in KINDS}))
def test_given_answers(name: str) -> None:
    check(named(name), GIVEN)


@pytest.mark.parametrize(("name", "way"), KINDS, ids=str)
@pytest.mark.parametrize("family", CORE)
def test_kinds_in_other_families(family: str, name: str, way: Way) -> None:
    check(named(name), way, family, torch.float64)
