"""Questions about tiny images, and sessions that answer them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar import ImagePromptInput, VLMAttribution
from captum_dexar.app.explainer import Explainer, Question
from captum_dexar.app.session import Session, State
from captum_dexar.comparison.methods import METHODS
from captum_dexar.result.result import VLMAttributionResult
from PIL import Image
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import tiny_vlm
from torch import nn

PROCESSOR = llava_processor()


def tiny_model(seed: int = 0) -> nn.Module:
    """A model that never ends an answer by itself."""
    model: Any = tiny_vlm(seed=seed)
    model.generation_config.eos_token_id = None
    return model


def picture(turn: int = 0) -> Image.Image:
    gradient = Image.radial_gradient("L").resize((40, 32)).rotate(90 * turn)
    return Image.merge("RGB", [gradient, gradient.rotate(180), gradient])


def question(new_tokens: int = 3, turn: int = 0) -> Question:
    return Question(picture(turn), "what is in the image ?", new_tokens)


def session_of(model: nn.Module) -> Session:
    return Session(Explainer(model, PROCESSOR))


def asked(session: Session, methods: tuple[str, ...], **which: int) -> list[State]:
    session.ask(question(**which), methods)
    return list(session.run())


def results_of(session: Session) -> list[VLMAttributionResult]:
    comparison = session.comparison()
    return [] if comparison is None else list(comparison.results.values())


def batch_result(
    model: nn.Module, method: str, target: Any, **which: int
) -> VLMAttributionResult:
    """The explanation of a given answer, in one call."""
    named, put = METHODS[method], question(**which)
    inp = ImagePromptInput(put.image, put.prompt, PROCESSOR, model)
    attribution = VLMAttribution(named.make(model), PROCESSOR)
    return attribution.attribute(inp, target, **named.arguments)


def generated_ids(model: Any, **which: int) -> list[int]:
    """What ``generate`` answers by itself."""
    put = question(**which)
    inp = ImagePromptInput(put.image, put.prompt, PROCESSOR, model)
    inputs = inp.to_model_input()
    length = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, max_new_tokens=put.new_tokens, do_sample=False)
    answer: list[int] = ids[0, length:].tolist()
    return answer


@contextmanager
def failing_at(model: nn.Module, number: int, text: str) -> Iterator[None]:
    """Within it the model's pass of that number raises an error."""
    passes = 0

    def fail(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == number:
            raise RuntimeError(text)

    handle = model.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def assert_same_result(
    one: VLMAttributionResult, other: VLMAttributionResult, tolerance: float = 1e-5
) -> None:
    assert torch.equal(one.target_ids, other.target_ids)
    assert one.output_tokens == other.output_tokens and one.answer == other.answer
    for name in ("token_attr", "seq_attr", "token_weights"):
        value, reference = getattr(one, name), getattr(other, name)
        assert (value is None) == (reference is None)
        if value is not None:
            scale = float(reference.abs().max()) or 1.0
            assert float((value - reference).abs().max()) <= tolerance * scale, name
