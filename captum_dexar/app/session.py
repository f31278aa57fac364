"""What one visitor asks, gets, and may stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from captum_dexar.app.explainer import Explainer, FAST, is_slow, Question
from captum_dexar.app.uploads import VisitorError
from captum_dexar.comparison.comparison import Comparison
from captum_dexar.comparison.methods import METHODS
from captum_dexar.result.joined import joined
from captum_dexar.result.result import VLMAttributionResult
from torch import Tensor

_LOG = logging.getLogger(__name__)
_LONGEST_MESSAGE = 600


class Phase(Enum):
    """How far a request is."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class State:
    """What a visitor sees at a moment.

    Attributes:
        phase (Phase): how far the request is
        title (str): name of the method at work, or of the last one
        result (VLMAttributionResult or None): the explained part of the answer
        seconds (float): time that the method at work has taken
        message (str): what failed, in words
    """

    phase: Phase
    title: str = ""
    result: VLMAttributionResult | None = None
    seconds: float = 0.0
    message: str = ""


@dataclass
class _Request:
    """One press of a button.

    Attributes:
        question (Question): what is asked
        methods (tuple of str): how it is explained, one or two
        answer (Tensor or None): ids of the answer, if it is known
        stop (Event): ends it
    """

    question: Question
    methods: tuple[str, ...]
    answer: Tensor | None
    stop: threading.Event = field(default_factory=threading.Event)


class Session:
    """One visitor's question, answer and explanations. Nobody else sees them.

    A request is made by :meth:`ask` or :meth:`explain_again`, which only check it, and
    carried out by :meth:`run`, when its turn has come. :meth:`stop` ends it, whether it
    has begun or not.

    Args:
        explainer (Explainer): the model that all visitors share

    Attributes:
        question (Question or None): the last one that has an answer
        answer (Tensor or None): ids of its answer, ``(T,)``
        shown (tuple of str): the methods whose explanations are shown
    """

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer
        self._request: _Request | None = None
        self._lock = threading.Lock()
        self._results: dict[str, VLMAttributionResult] = {}
        self._seconds: dict[str, float] = {}
        self.question: Question | None = None
        self.answer: Tensor | None = None
        self.shown: tuple[str, ...] = ()

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or is carried out."""
        return self._request is not None

    def ask(self, question: Question, methods: Sequence[str]) -> None:
        """Prepares a new question.

        Its answer is explained by the fast methods among those given, or by DEX-AR. The
        slow ones have to be asked for when their cost is known.

        Args:
            question (Question): what is asked
            methods (sequence of str): how, one or two of ``OFFERED``

        Raises:
            VisitorError: another request has not ended.
        """
        fast = tuple(method for method in methods if not is_slow(method))
        self._prepare(_Request(question, fast or (FAST,), None))

    def explain_again(self, methods: Sequence[str]) -> None:
        """Prepares explaining the same answer.

        Args:
            methods (sequence of str): how, one or two of ``OFFERED``

        Raises:
            VisitorError: another request has not ended, or there is no answer.
        """
        if self.question is None or self.answer is None:
            raise VisitorError("There is no answer yet. Ask a question first.")
        self._prepare(_Request(self.question, tuple(methods), self.answer))

    def _prepare(self, request: _Request) -> None:
        with self._lock:
            if self._request is not None:
                raise VisitorError("Your last question is still being answered.")
            self._request = request

    def stop(self) -> None:
        """Ends the request after the current token."""
        request = self._request
        if request is not None:
            request.stop.set()

    def run(self) -> Generator[State, None, None]:
        """Carries out the prepared request, if there is one.

        Yields:
            State after every token. The last one's phase is not ``RUNNING``.
        """
        request = self._request
        if request is None:
            return
        try:
            yield from self._carried_out(request)
        except VisitorError as error:
            yield State(Phase.FAILED, message=str(error))
        except Exception as error:  # models and processors raise what they like
            _LOG.warning("A request failed.", exc_info=True)
            yield State(Phase.FAILED, message=in_words(error))
        finally:
            request.stop.set()
            self._request = None

    def _carried_out(self, request: _Request) -> Iterator[State]:
        is_new = request.answer is None
        if is_new:
            self.question, self.answer, self.shown = None, None, ()
            self._results, self._seconds = {}, {}
        title = ""
        for method in request.methods:
            title = METHODS[method].title
            already = () if method == request.methods[0] else self.shown
            try:
                # Explanations of the same answer are kept.
                if method not in self._results:
                    yield State(Phase.RUNNING, title)
                    yield from self._explained(request, method)
            finally:
                if method in self._results:
                    self.shown = (*already, method)
            if request.stop.is_set():
                break
        stopped = request.stop.is_set()
        if not stopped and self.answer is None:
            raise VisitorError("The model gave no answer.")
        yield State(Phase.STOPPED if stopped else Phase.DONE, title)

    def _explained(self, request: _Request, method: str) -> Iterator[State]:
        """Explains with one method; keeps what it gave."""
        title, parts, seconds = METHODS[method].title, [], 0.0
        steps = self._explainer.explain(
            request.question, method, request.answer, request.stop
        )
        try:
            for explained in steps:
                parts.append(explained.result)
                seconds = explained.seconds
                yield State(Phase.RUNNING, title, joined(parts), seconds)
        finally:
            if parts:
                self._keep(request, method, joined(parts), seconds)

    def _keep(
        self,
        request: _Request,
        method: str,
        result: VLMAttributionResult,
        seconds: float,
    ) -> None:
        if request.answer is None:
            # An answer that was stopped ends there.
            self.question = request.question
            self.answer = request.answer = result.target_ids
        if len(result.target_ids) == len(request.answer):
            self._results[method], self._seconds[method] = result, seconds

    @staticmethod
    def title_of(method: str) -> str:
        """The name under which a method's explanation is shown."""
        return METHODS[method].title

    def comparison(self) -> Comparison | None:
        """The explanations that are shown, one or two; None if there are none."""
        if not self.shown:
            return None
        return Comparison(
            {self.title_of(method): self._results[method] for method in self.shown},
            {self.title_of(method): self._seconds[method] for method in self.shown},
        )

    def cost(self, methods: Sequence[str]) -> float | None:
        """About how many seconds slow methods will take on the answer.

        A small part of a token is tried where nothing has been measured yet.

        Args:
            methods (sequence of str): one or two of ``OFFERED``

        Returns:
            float; 0 where no slow method is left to run, None without an answer
        """
        if self.question is None or self.answer is None:
            return None
        total = 0.0
        for method in methods:
            if is_slow(method) and method not in self._results:
                if self._explainer.seconds(method, 1) is None:
                    self._explainer.try_out(self.question, method, self.answer)
                total += self._explainer.seconds(method, len(self.answer)) or 0.0
        return total


def in_words(error: Exception) -> str:
    """What an error says, without where it was raised."""
    text = " ".join(str(error).split()) or "no reason was given"
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]}..."
    return f"The model could not answer or be explained: {text}"
