"""A result outlives its model, and travels to other processes."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
)
from captum_dexar.result.joined import joined
from PIL import Image
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import tiny_vlm
from tests.result.test_result import make_result
from torch import nn

PROMPT = "USER: <image>\nwhat is in the image ? ASSISTANT:"
TARGET = [40, 41, 42]
IMAGE = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
PROCESSOR = llava_processor()


def processed(image: Any) -> Any:
    return PROCESSOR(images=image, text=PROMPT, return_tensors="pt")


def masked(model: Any) -> ImageMaskInput:
    return ImageMaskInput(IMAGE, processor_fn=lambda x: processed(x).to(model.device))


INPUTS: dict[str, Callable[[nn.Module], Any]] = {
    "prompt": lambda model: ImagePromptInput(IMAGE, PROMPT, PROCESSOR),
    "prompt_with_model": lambda model: ImagePromptInput(
        IMAGE, PROMPT, PROCESSOR, model
    ),
    "several_images": lambda model: ImagePromptInput(
        [IMAGE, IMAGE], "<image> <image> ?", PROCESSOR, model
    ),
    "mask": masked,
    "mapping": lambda model: processed(IMAGE),
}


def explained(kind: str) -> tuple[VLMAttributionResult, "weakref.ref[nn.Module]"]:
    model = tiny_vlm(seed=3)
    method = VLMAttribution(LayerDexAR(model), PROCESSOR)
    inp = INPUTS[kind](model)
    if kind == "prompt":
        (result,) = method.stream(inp, gen_args={"max_new_tokens": 1})
    else:
        result = method.attribute(inp, TARGET)
    return result, weakref.ref(model)


@pytest.mark.parametrize("kind", INPUTS)
def test_a_result_refers_to_no_model_and_is_copied(kind: str) -> None:
    result, model = explained(kind)
    gc.collect()
    assert model() is None
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert other == result and other is not result
        assert torch.equal(other.token_attr, result.token_attr)
        assert (other.inp is None) == (kind == "mapping")
        if kind not in ("mapping", "several_images"):
            assert other.inp.values == result.input_tokens
            assert len(other.inp.get_mask_list()) == len(result.input_tokens)
            other.plot_image_heatmap()[0].clear()


def test_a_pickled_result_of_a_batch_holds_its_own_values_only() -> None:
    model = tiny_vlm(seed=3)
    method = VLMAttribution(LayerDexAR(model), PROCESSOR)
    inps = [INPUTS["prompt"](model) for _ in range(4)]
    one, *_ = method.attribute(inps, [TARGET] * 4)
    for value in vars(one).values():
        if isinstance(value, torch.Tensor) and value.numel():
            shared = value.untyped_storage().nbytes() / value.nbytes
            assert shared <= 2, "the values of the whole batch are kept"


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["token_attr", "token_weights", "head_weights"])
def test_special_values_equal_themselves_only(name: str, special: float) -> None:
    def with_value(value: float) -> VLMAttributionResult:
        changed = getattr(make_result(), name).clone()
        changed.view(-1)[0] = value
        return make_result(**{name: changed})

    result = with_value(special)
    assert result == with_value(special) == copy.deepcopy(result)
    limits = torch.finfo(torch.float32)
    others = (0.0, limits.max, limits.min, float("nan"), float("inf"), -float("inf"))
    for other in others:
        if str(other) != str(special):
            assert result != with_value(other)


QUESTIONS = {"prompt": PROMPT, "several_images": "<image> <image> ?"}


@pytest.mark.parametrize("kind", ["prompt", "several_images", "mask", "mapping"])
def test_a_result_keeps_the_question(kind: str) -> None:
    """Through copies of it, where the input has one."""
    result, _ = explained(kind)
    asked = QUESTIONS.get(kind)
    assert result.question == asked
    assert result.of_image(0).question == joined([result]).question == asked


def test_other_answers_differ() -> None:
    assert make_result(answer="a violet.") != make_result(answer="a violet .")


def test_a_file_without_answer_and_question_is_read(tmp_path: Any) -> None:
    """As written before results had them."""
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    make_result(answer="a violet.", question="why?").save(tmp_path / "new")
    with safe_open(tmp_path / "new", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    content = json.loads(metadata["content"])
    assert content.pop("answer") == "a violet." and content.pop("question") == "why?"
    metadata["content"] = json.dumps(content)
    save_file(tensors, tmp_path / "old", metadata=metadata)
    new = VLMAttributionResult.load(tmp_path / "new")
    assert (new.answer, new.question) == ("a violet.", "why?")
    assert VLMAttributionResult.load(tmp_path / "old") == make_result()


def test_printed_it_is_one_line() -> None:
    result = make_result(answer="a $violet\nflower " * 20)
    assert len(repr(result)) < 200 and "\n" not in repr(result)
    assert repr(make_result()) == (
        "VLMAttributionResult(Layer DEX-AR: 'a violet .', 5 tokens, maps of 2 x 4)"
    )


def test_a_warning_names_the_line_of_the_user() -> None:
    model = tiny_vlm(seed=3)
    for weight in (part for name, part in model.named_parameters() if "v_proj" in name):
        weight.data.zero_()
    method = VLMAttribution(LayerDexAR(model), PROCESSOR)
    inp = INPUTS["prompt"](model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.attribute(inp, TARGET)
        list(method.stream(inp, gen_args={"max_new_tokens": 1}))
    places = {one.filename for one in caught if "whole answer" in str(one.message)}
    assert places == {__file__}
