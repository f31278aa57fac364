"""One model that explains answers for many visitors, one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any

from captum_dexar import ImagePromptInput, VLMAttribution
from captum_dexar.app.memory import give_back
from captum_dexar.comparison.methods import METHODS
from captum_dexar.result.result import VLMAttributionResult
from PIL import Image
from torch import nn, Tensor

# Keys of METHODS, the first one chosen at first.
OFFERED = ("dexar", "dexar-rivals", "attention-gradient", "ig")
FAST = OFFERED[0]
# Methods whose cost is said before they run: the argument that it is proportional to,
# and the value of it with which a token is tried.
_TRIALS = {"ig": ("n_steps", 5)}
_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        image (PIL.Image.Image): the image
        prompt (str): the question about it
        new_tokens (int): largest number of tokens of the answer
    """

    image: Image.Image
    prompt: str
    new_tokens: int


@dataclass(frozen=True)
class Explained:
    """A token that has just been explained.

    Attributes:
        result (VLMAttributionResult): of this token
        seconds (float): since the request's turn came
    """

    result: VLMAttributionResult
    seconds: float


class Explainer:
    """A model in memory. It works for one request at a time; others wait.

    Args:
        model (nn.Module): the vision-language model
        processor (ProcessorMixin): its processor
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        self._model, self._processor = model, processor
        self._attributions: dict[str, VLMAttribution] = {}
        self._turn = threading.Lock()
        self._seconds_per_token: dict[str, float] = {}

    def explain(
        self,
        question: Question,
        method: str,
        answer: Tensor | None,
        stop: threading.Event,
    ) -> Iterator[Explained]:
        """Explains an answer token by token, generating it unless it is given.

        A thread of its own works, so that the model is free again soon after ``stop``
        is set, even if nobody asks for the next token any more.

        Args:
            question (Question): what is asked
            method (str): one of ``OFFERED``
            answer (Tensor or None): ids of a given answer, ``(T,)``; None generates one
            stop (Event): set by anybody, it ends the request after the current token

        Yields:
            Explained, one per token

        Raises:
            Exception: whatever the processor, the model or the method raises.
        """
        results: Queue[Explained | Exception | None] = Queue()
        gone = threading.Event()

        def is_over() -> bool:
            return stop.is_set() or gone.is_set()

        def work() -> None:
            try:
                for explained in self._parts(question, method, answer, is_over):
                    results.put(explained)
                results.put(None)
            except Exception as error:  # raised again below
                results.put(error)
            give_back()

        threading.Thread(target=work, name="explaining", daemon=True).start()
        try:
            while (explained := results.get()) is not None:
                if isinstance(explained, Exception):
                    raise explained
                yield explained
        finally:
            gone.set()

    def _parts(
        self,
        question: Question,
        method: str,
        answer: Tensor | None,
        is_over: Callable[[], bool],
    ) -> Iterator[Explained]:
        while not self._turn.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
            if is_over():
                return
        start = time.perf_counter()
        num_tokens = 0
        try:
            if is_over():
                return
            attribution = self._attribution(method)
            steps = attribution.stream(
                self._input(question),
                _generation(question, answer),
                **METHODS[method].arguments,
            )
            try:
                for result in steps:
                    num_tokens += len(result.output_tokens)
                    seconds = time.perf_counter() - start
                    self._seconds_per_token[method] = seconds / num_tokens
                    yield Explained(result, seconds)
                    if is_over():
                        return
            finally:
                steps.close()  # type: ignore[attr-defined]
        finally:
            self._turn.release()

    def seconds(self, method: str, num_tokens: int) -> float | None:
        """About how long a method will take; None if that has not been measured.

        Args:
            method (str): one of ``OFFERED``
            num_tokens (int): tokens of the answer
        """
        each = self._seconds_per_token.get(method)
        return None if each is None else each * num_tokens

    def try_out(self, question: Question, method: str, answer: Tensor) -> None:
        """Measures what a slow method will take, by a small part of its first token.

        Args:
            question (Question): what is asked
            method (str): one of ``OFFERED`` that is slow
            answer (Tensor): ids of an answer to it, ``(T,)``
        """
        name, tried = _TRIALS[method]
        arguments = METHODS[method].arguments
        with self._turn:
            inp = self._input(question)
            start = time.perf_counter()
            self._attribution(method).attribute(
                inp, answer[:1], **{**arguments, name: tried}
            )
            seconds = time.perf_counter() - start
        self._seconds_per_token.setdefault(method, seconds * arguments[name] / tried)

    def _input(self, question: Question) -> ImagePromptInput:
        return ImagePromptInput(
            question.image, question.prompt, self._processor, self._model
        )

    def _attribution(self, method: str) -> VLMAttribution:
        if method not in self._attributions:
            made = METHODS[method].make(self._model)
            self._attributions[method] = VLMAttribution(made, self._processor)
        return self._attributions[method]


def is_slow(method: str) -> bool:
    """Whether a method's cost is said before it runs."""
    return method in _TRIALS


def _generation(question: Question, answer: Tensor | None) -> dict[str, Any]:
    """Arguments of ``generate``: greedily, or exactly a given answer."""
    arguments: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    if answer is None:
        return {**arguments, "max_new_tokens": question.new_tokens}
    ids = answer.tolist()
    before: list[int] = []

    def only_the_next(_: int, sequence: Tensor) -> list[int]:
        # The first sequence is the prompt.
        before.append(len(sequence))
        return [ids[len(sequence) - before[0]]]

    return {
        **arguments,
        "max_new_tokens": len(ids),
        "prefix_allowed_tokens_fn": only_the_next,
    }
