"""Whatever fails, wherever, on whichever way: the model is as before, and the error is
the one that was raised.

A table of points of failure and ways of explaining. Errors and methods take turns, so
that every point meets several of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
import tqdm.std
from captum.attr import ImageMaskInput, Saliency
from captum_dexar import (
    compare,
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMForward,
)
from captum_dexar.baselines import LayerAttention
from captum_dexar.evaluation import evaluate
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.untouched import untouched
from torch import nn, Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

ERRORS = (RuntimeError, KeyboardInterrupt, MemoryError, StopIteration, SystemExit)
MESSAGE = "injected on purpose"
TARGET = "a red circle"
Explain = Callable[[Any, dict[str, Any]], object]


@cache
def world() -> tuple[Any, Any]:
    model, processor = load_vlm()
    dexar = VLMAttribution(LayerDexAR(model), processor)
    list(dexar.stream(the_input(processor), gen_args={"max_new_tokens": 1}))
    return model, processor


def the_input(processor: Any) -> ImagePromptInput:
    return ImagePromptInput(make_scene(4).image, "Describe the image.", processor)


class Armed:
    """Raises an error the n-th time that it is reached, once armed."""

    def __init__(self, error: BaseException, number: int = 1) -> None:
        self.error = error
        self.countdown = number
        self.has_raised = False

    def __call__(self) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            self.has_raised = True
            raise self.error


class FailingProcessor(LogitsProcessor):
    def __init__(self, armed: Armed) -> None:
        self.armed = armed

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        self.armed()
        return scores


class FailingCriterion(StoppingCriteria):
    def __init__(self, armed: Armed) -> None:
        self.armed = armed

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        self.armed()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@contextmanager
def failing_method(kind: type, name: str, armed: Armed, only: Any) -> Iterator[None]:
    """A method of a class fails: nothing shows that it is not the library's own."""
    original = getattr(kind, name)

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        if only is None or self is only:
            armed()
        return original(self, *args, **kwargs)

    fail.__module__ = original.__module__
    is_own = name in vars(kind)
    setattr(kind, name, fail)
    try:
        yield
    finally:
        if is_own:
            setattr(kind, name, original)
        else:
            delattr(kind, name)


DECODER = "model.language_model"
PARTS = {
    f"the {name} of layer {index}": f"{DECODER}.layers.{index}.{part}"
    for index in range(5)
    for name, part in (
        ("attention", "self_attn"),
        ("MLP", "mlp"),
        ("norm", "post_attention_layernorm"),
    )
} | {
    "layer 2": f"{DECODER}.layers.2",
    "the projection before the attention": f"{DECODER}.layers.3.self_attn.v_proj",
    "the final norm": f"{DECODER}.norm",
    "the head": "lm_head",
    "the embeddings": f"{DECODER}.embed_tokens",
    "the vision tower": "model.vision_tower.encoder.layers.1.mlp",
    "the projector": "model.multi_modal_projector",
}
OTHERS = ("tokenizer", "processor", "logits processor", "stopping criterion", "bar")
WAYS = ("attribute", "list", "stream", "given", "compare", "evaluate")
METHODS = ("closed form", "autograd", "attention", "saliency")


def method_of(name: str, model: nn.Module) -> Any:
    if name == "saliency":
        return Saliency(VLMForward(model))
    if name == "attention":
        return LayerAttention(model)
    return LayerDexAR(model, engine=name.replace(" ", "_"))


def run(way: str, method: Any, inp: Any, gen_args: dict[str, Any], bar: bool) -> None:
    _, processor = world()
    wrapped = VLMAttribution(method, processor)
    if way == "attribute":
        wrapped.attribute(inp, gen_args=gen_args, progress=bar)
    elif way == "list":
        wrapped.attribute([inp, inp], gen_args=gen_args, progress=bar)
    elif way == "stream":
        for _ in wrapped.stream(inp, gen_args=gen_args):
            pass
    elif way == "given":
        wrapped.attribute(inp, TARGET, progress=bar)
    elif way == "compare":
        compare({"one": method}, inp, None, processor, gen_args, progress=bar)
    else:
        mask = torch.zeros(make_scene(4).image.size[::-1], dtype=torch.bool)
        mask[:20, :20] = True
        dataset = [(inp, TARGET, [([2], mask)])]
        evaluate({"one": method}, dataset, processor=processor, progress=bar)


def cells() -> Iterator[Any]:
    """Each point on each way on which it is reached, with an error and a method."""
    points = [*PARTS, *OTHERS]
    for row, point in enumerate(points):
        for column, way in enumerate(WAYS):
            if point in PARTS and row % 3 != column % 3:
                # Neighbouring layers share the ways.
                continue
            is_given = way in ("given", "evaluate")
            if is_given and point in ("logits processor", "stopping criterion"):
                continue
            if way == "stream" and point == "bar":
                continue
            error = ERRORS[(row + column) % len(ERRORS)]
            method = METHODS[(row // 2 + column) % len(METHODS)]
            name = f"{point}-{way}-{method}-{error.__name__}"
            yield pytest.param(point, way, method, error, id=name)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize(("point", "way", "method", "kind"), list(cells()))
def test_the_model_is_as_before_and_the_error_is_the_users(
    point: str,
    way: str,
    method: str,
    kind: type[BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, processor = world()
    armed = Armed(kind(MESSAGE))
    gen_args: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    inp: Any = the_input(processor)
    if point == "processor":
        inp = mask_input(armed)
    elif point == "logits processor":
        armed.countdown = 2
        gen_args["logits_processor"] = LogitsProcessorList([FailingProcessor(armed)])
    elif point == "stopping criterion":
        armed.countdown = 2
        gen_args["stopping_criteria"] = [FailingCriterion(armed)]
    with untouched(model), pytest.raises(BaseException) as raised:
        with failing(point, armed):
            run(way, method_of(method, model), inp, gen_args, point == "bar")
    assert armed.has_raised, raised.value
    assert armed.error in chain(raised.value)
    if kind is StopIteration:
        # A generator can't pass it on; a loop over a stream would just end.
        assert type(raised.value) in (StopIteration, RuntimeError)
        assert way != "stream" or "StopIteration was raised" in str(raised.value)
    else:
        assert type(raised.value) is kind
        assert MESSAGE in str(raised.value)


def mask_input(armed: Armed) -> ImageMaskInput:
    """An image whose processor fails when it is called again, for its places."""
    _, processor = world()
    prompt = the_input(processor)
    armed.countdown = 2

    def process(image: Any) -> Any:
        armed()
        return processor(images=image, text=prompt.prompt, return_tensors="pt")

    return ImageMaskInput(make_scene(4).image, processor_fn=process)


@contextmanager
def failing(point: str, armed: Armed) -> Iterator[None]:
    model, processor = world()
    if point in PARTS:
        part = model.get_submodule(PARTS[point])
        with failing_method(type(part), "forward", armed, part):
            yield
    elif point == "tokenizer":
        kind = type(processor.tokenizer)
        with failing_method(kind, "decode", armed, None):
            yield
    elif point == "bar":
        with failing_method(tqdm.std.tqdm, "update", armed, None):
            yield
    else:
        yield


@pytest.mark.parametrize("kind", [*ERRORS, GeneratorExit], ids=lambda k: k.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_a_stream_that_is_thrown_into(method: str, kind: type[BaseException]) -> None:
    model, processor = world()
    wrapped = VLMAttribution(method_of(method, model), processor)
    error = kind(MESSAGE)
    with untouched(model), pytest.raises(BaseException) as raised:
        stream: Any = wrapped.stream(the_input(processor))
        next(stream)
        stream.throw(error)
    assert error in chain(raised.value)
    assert type(raised.value) is (RuntimeError if kind is StopIteration else kind)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_stream_that_nobody_reads_on(method: str, number: int) -> None:
    """It is closed, or collected, before, between and after its tokens."""
    model, processor = world()
    wrapped = VLMAttribution(method_of(method, model), processor)
    with untouched(model):
        for is_closed in (True, False):
            stream: Any = wrapped.stream(
                the_input(processor), gen_args={"max_new_tokens": 2}
            )
            for _ in range(number):
                next(stream)
            if is_closed:
                stream.close()
            del stream


def test_two_streams_interleaved_on_one_model() -> None:
    model, processor = world()
    dexar = VLMAttribution(LayerDexAR(model), processor)
    few = {"max_new_tokens": 5, "do_sample": False}
    inputs = [
        ImagePromptInput(make_scene(seed).image, "Describe the image.", processor)
        for seed in (4, 5)
    ]
    alone = [list(dexar.stream(inp, gen_args=few)) for inp in inputs]
    with untouched(model):
        together = list(zip(*[dexar.stream(inp, gen_args=few) for inp in inputs]))
    for results, expected in zip(zip(*together), alone, strict=True):
        for result, one in zip(results, expected, strict=True):
            assert torch.equal(result.token_attr, one.token_attr)
            assert result.answer == one.answer
