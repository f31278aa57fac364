"""Every input that can't be explained gives one clear error, and changes nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import ImageMaskInput, TextTokenInput
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
    VLMForward,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.helpers.processors import CROP, llava_processor
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

Call = Callable[[], object]
QUESTION = "what is in the image ?"
TARGET = [40, 41]

# Constructors without their types: what comes here is wrong on purpose.
prompted: Any = ImagePromptInput
dexar: Any = LayerDexAR
forward: Any = VLMForward
attribution: Any = VLMAttribution

MODEL: Any = warm(tiny_vlm(), prompt_inputs())
LAYERS = list(MODEL.model.language_model.layers)
PROCESSOR = llava_processor(CROP)
IMAGE: Any = Image.fromarray(np.full((40, 60, 3), 100, dtype=np.uint8))
LINEAR = nn.Linear(2, 2)
TEXT_MODEL = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
).eval()


def explain(inp: Any, **options: Any) -> Call:
    return lambda: attribution(dexar(MODEL), PROCESSOR).attribute(
        inp, TARGET, **options
    )


def changed(**changes: Any) -> Mapping[str, Any]:
    return {**prompt_inputs(), **changes}


def without(name: str) -> Mapping[str, Any]:
    return {key: value for key, value in prompt_inputs().items() if key != name}


def with_image_tokens(count: int) -> Mapping[str, Any]:
    return changed(input_ids=torch.tensor([[1, *[IMAGE_TOKEN] * count, 5]]))


def spoilt_pixels(value: float) -> Mapping[str, Any]:
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[0, 1, 2, 3] = value
    return changed(pixel_values=pixels)


INPUTS: dict[str, tuple[Call, type[Exception], str]] = {
    "no image": (explain(without("pixel_values")), ValueError, "no image"),
    "image is None": (explain(changed(pixel_values=None)), ValueError, "no image"),
    "no ids": (explain(without("input_ids")), ValueError, "no 'input_ids'"),
    "no placeholder": (explain(with_image_tokens(0)), ValueError, "no image token"),
    "too few image tokens": (explain(with_image_tokens(12)), ValueError, "grid"),
    "one image token too many": (
        explain(with_image_tokens(17)),
        ValueError,
        "image tokens",
    ),
    "too many image tokens": (explain(with_image_tokens(20)), ValueError, "grid"),
    "two prompts": (explain(prompt_inputs(batch=2)), ValueError, "one prompt, got 2"),
    "1-D ids": (
        explain(changed(input_ids=prompt_inputs()["input_ids"][0])),
        ValueError,
        r"\(batch, tokens\)",
    ),
    "NaN pixels": (explain(spoilt_pixels(torch.nan)), ValueError, "NaN or infinite"),
    "infinite pixels": (
        explain(spoilt_pixels(-torch.inf)),
        ValueError,
        "NaN or infinite",
    ),
    "a string": (explain("an image"), TypeError, "inp must be"),
    "None": (explain(None), TypeError, "inp must be"),
    "an image": (explain(IMAGE), TypeError, "inp must be"),
    "a tensor": (explain(torch.zeros(1, 3, 32, 32)), TypeError, "inp must be"),
    "a text input": (
        explain(TextTokenInput("what", PROCESSOR.tokenizer)),
        TypeError,
        "inp must be",
    ),
    "no processor_fn": (explain(ImageMaskInput(IMAGE)), TypeError, "processor_fn"),
}

PROMPTS: dict[str, tuple[Call, type[Exception], str]] = {
    "an image's bytes": (
        lambda: prompted(b"PNG", QUESTION, PROCESSOR),
        TypeError,
        "PIL image, an array, a tensor or a path, got bytes",
    ),
    "no image, and none in the prompt": (
        lambda: prompted(None, QUESTION, PROCESSOR),
        ValueError,
        "There is no image: image is None",
    ),
    "no pixel": (
        lambda: prompted(Image.new("RGB", (0, 5)), QUESTION, PROCESSOR),
        ValueError,
        "no pixel",
    ),
    "no string": (
        lambda: prompted(IMAGE, [QUESTION], PROCESSOR),
        TypeError,
        "prompt must be a string, or a list of chat messages.*got str as message 0",
    ),
    "no prompt": (
        lambda: prompted(IMAGE, None, PROCESSOR),
        TypeError,
        "prompt must be a string, or a list of chat messages.*got NoneType",
    ),
    "placeholder twice": (
        lambda: prompted(IMAGE, "<image> and <image>", PROCESSOR),
        ValueError,
        "2 times",
    ),
    "no chat template": (
        lambda: prompted(IMAGE, "what", llava_processor(CROP, "default", None)),
        ValueError,
        "no chat template",
    ),
    "a template without the image": (
        lambda: prompted(IMAGE, "what", llava_processor(CROP, "default", "USER")),
        ValueError,
        "0 <image> tokens|has 0 image tokens",
    ),
    "a tokenizer as processor": (
        lambda: prompted(IMAGE, "what", PROCESSOR.tokenizer),
        TypeError,
        "LlavaProcessor",
    ),
    "no processor": (
        lambda: prompted(IMAGE, "what", None),
        TypeError,
        "LlavaProcessor",
    ),
    "a number as processor": (
        lambda: prompted(IMAGE, "what", 5),
        TypeError,
        "LlavaProcessor.*got int",
    ),
    "a number as processor of a model": (
        lambda: prompted(IMAGE, "what", 5, MODEL),
        TypeError,
        "processor must be the model's processor.*got int",
    ),
    "a tokenizer as processor of a model": (
        lambda: prompted(IMAGE, "what", PROCESSOR.tokenizer, MODEL),
        TypeError,
        r"processor must be the model's processor \(transformers.AutoProcessor\), got",
    ),
    "processor and model exchanged": (
        lambda: prompted(IMAGE, "what", MODEL, MODEL),
        TypeError,
        "processor must be the model's processor.*got LlavaForConditionalGeneration",
    ),
    "a number as grid": (
        lambda: prompted(IMAGE, "what", PROCESSOR, grid=5),
        TypeError,
        r"grid must be two positive integers, \(rows, columns\), got 5",
    ),
    "a grid of three": (
        lambda: prompted(IMAGE, "what", PROCESSOR, grid=(4, 2, 2)),
        TypeError,
        r"grid must be two positive integers.*got \(4, 2, 2\)",
    ),
    "a grid of strings": (
        lambda: prompted(IMAGE, "what", PROCESSOR, grid="44"),
        TypeError,
        "grid must be two positive integers.*got '44'",
    ),
    "a grid below zero": (
        lambda: prompted(IMAGE, "what", PROCESSOR, grid=(-4, -4)),
        TypeError,
        "grid must be two positive integers",
    ),
    "boxes of strings": (
        lambda: prompted(IMAGE, "what", PROCESSOR, boxes="whole"),
        TypeError,
        r"boxes must be a tensor \(image tokens, 4\).*got str",
    ),
    "a number as boxes": (
        lambda: prompted(IMAGE, "what", PROCESSOR, boxes=5),
        ValueError,
        r"boxes must be \(image tokens, 4\)",
    ),
    "another kind of model": (
        lambda: prompted(IMAGE, "what", PROCESSOR, TEXT_MODEL),
        TypeError,
        "'llama' are not supported",
    ),
    "no Hugging Face model": (
        lambda: prompted(IMAGE, "what", PROCESSOR, LINEAR),
        TypeError,
        "not supported",
    ),
}

METHODS: dict[str, tuple[Call, type[Exception], str]] = {
    "a text model": (lambda: dexar(TEXT_MODEL), TypeError, "'llama'"),
    "a linear layer": (lambda: dexar(LINEAR), TypeError, "not supported"),
    "VLMForward around a linear layer": (
        lambda: dexar(forward(LINEAR)),
        TypeError,
        "not supported",
    ),
    "a function": (
        lambda: dexar(lambda pixels: pixels),
        TypeError,
        "got function",
    ),
    "None": (lambda: dexar(None), TypeError, "got NoneType"),
    "VLMForward around a function": (
        lambda: forward(lambda pixels: pixels),
        TypeError,
        "got function",
    ),
    "a foreign layer": (
        lambda: dexar(MODEL, LINEAR),
        ValueError,
        "got Linear which is none",
    ),
    "another model's layer": (
        lambda: dexar(MODEL, list(TEXT_MODEL.model.layers)),
        ValueError,
        "got LlamaDecoderLayer which is none",
    ),
    "a part of a layer": (
        lambda: dexar(MODEL, [LAYERS[0], LAYERS[1].self_attn]),
        ValueError,
        "got LlamaAttention which is none",
    ),
    "a layer's number": (
        lambda: dexar(MODEL, 1),
        ValueError,
        "got int which is none",
    ),
    "no layer": (lambda: dexar(MODEL, []), ValueError, "at least one"),
    "a layer twice": (
        lambda: dexar(MODEL, [LAYERS[1], LAYERS[1]]),
        ValueError,
        "none twice",
    ),
    "two devices": (
        lambda: dexar(MODEL, device_ids=[0, 1]),
        ValueError,
        "2 devices",
    ),
    "an unknown engine": (
        lambda: dexar(MODEL, engine="fast"),
        ValueError,
        "engine must be one of",
    ),
    "VLMAttribution of a model": (
        lambda: attribution(MODEL),
        TypeError,
        "attr_method must be",
    ),
    "VLMAttribution with a number as processor": (
        lambda: attribution(dexar(MODEL), 5),
        TypeError,
        "processor must be .* or its tokenizer, got int",
    ),
    "VLMAttribution with a model as processor": (
        lambda: attribution(dexar(MODEL), MODEL),
        TypeError,
        "processor must be .*, got LlavaForConditionalGeneration",
    ),
}

OPTIONS: dict[str, tuple[Call, type[Exception], str]] = {
    "a number as grid": (
        explain(prompt_inputs(), grid=5),
        TypeError,
        "grid must be two positive integers",
    ),
    "a negative power": (
        explain(prompt_inputs(), attention_power=-0.5),
        ValueError,
        "must not be negative",
    ),
    "a power that is no number": (
        explain(prompt_inputs(), attention_power=torch.nan),
        ValueError,
        "attention_power",
    ),
    "no key": (
        explain(prompt_inputs(), top_k=0),
        ValueError,
        "top_k must be a positive",
    ),
    "an unknown option": (
        explain(prompt_inputs(), heads=3),
        TypeError,
        "has no argument heads; it has head_filter",
    ),
    "an unknown gradient option": (
        explain(prompt_inputs(), grad_kwargs={"heads": 3}),
        TypeError,
        "unexpected keyword argument 'heads'",
    ),
}

CASES = {
    f"{kind}: {name}": case
    for kind, table in {
        "input": INPUTS,
        "prompt": PROMPTS,
        "method": METHODS,
        "option": OPTIONS,
    }.items()
    for name, case in table.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_one_clear_error_and_nothing_changed(
    case: tuple[Call, type[Exception], str],
) -> None:
    call, error, message = case
    with untouched(MODEL), pytest.raises(error, match=message) as raised:
        call()
    assert type(raised.value) is error


@pytest.mark.parametrize("training", ["everything", "one module"])
def test_training_mode_is_refused(training: str) -> None:
    model: Any = warm(tiny_vlm(), prompt_inputs())
    method = dexar(model)
    (model if training == "everything" else model.model.vision_tower).train()
    inputs = prompt_inputs()
    with untouched(model):
        with pytest.raises(RuntimeError, match=r"model.eval\(\)"):
            attribution(method).attribute(inputs, TARGET)
        with pytest.raises(RuntimeError, match=r"model.eval\(\)"):
            method.attribute(inputs["pixel_values"], 40, (inputs["input_ids"],))


def test_inference_mode_is_refused() -> None:
    inputs = prompt_inputs()
    method = dexar(MODEL)
    with torch.inference_mode(), untouched(MODEL):
        with pytest.raises(RuntimeError, match="torch.no_grad is fine"):
            attribution(method).attribute(inputs, TARGET)
        with pytest.raises(RuntimeError, match="torch.no_grad is fine"):
            method.attribute(inputs["pixel_values"], 40, (inputs["input_ids"],))


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = tiny_vlm()
    with pytest.raises(RuntimeError, match="weights were made inside"):
        attribution(dexar(model)).attribute(prompt_inputs(), TARGET)


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_inputs_made_in_inference_mode_are_fine(engine: str) -> None:
    with torch.inference_mode():
        inputs = prompt_inputs()
    method = attribution(dexar(MODEL, engine=engine))
    result = method.attribute(inputs, TARGET)
    expected = method.attribute(prompt_inputs(), TARGET)
    assert torch.equal(result.token_attr, expected.token_attr)


def test_what_is_no_result_file_is_refused(tmp_path: Path) -> None:
    result = attribution(dexar(MODEL)).attribute(prompt_inputs(), TARGET)
    whole = tmp_path / "whole.dexar"
    result.save(whole)
    assert VLMAttributionResult.load(whole) == result
    content = whole.read_bytes()
    files = {
        "empty": b"",
        "text": b"not a result",
        "truncated tensors": content[:-50],
        "truncated header": content[:100],
    }
    for name, bytes_ in files.items():
        path = tmp_path / name
        path.write_bytes(bytes_)
        with pytest.raises(ValueError, match="not a readable result file"):
            VLMAttributionResult.load(path)
    with safe_open(whole, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    spoilt = tmp_path / "spoilt.dexar"
    no_image = {**tensors, "image": torch.zeros(9, dtype=torch.uint8)}
    tensors.pop("target_ids")
    for damaged in (no_image, tensors):
        save_file(damaged, spoilt, metadata=metadata)
        with pytest.raises(ValueError, match="not a readable result file"):
            VLMAttributionResult.load(spoilt)
    other = tmp_path / "other.safetensors"
    save_file({"weights": torch.ones(2)}, other)
    with pytest.raises(ValueError, match="not a result saved by"):
        VLMAttributionResult.load(other)
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match="no result file"):
            VLMAttributionResult.load(missing)
