"""Explains each token while the answer is still being generated."""

import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack
from queue import Queue
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding.generation import (
    add_stopping_criterion,
    check_prompt,
    given_cache,
)
from captum_dexar.decoding.generation_settings import GenerationSettings
from captum_dexar.decoding.generation_watch import GenerationWatch
from captum_dexar.decoding.prompt_cache import PromptCache, watched_positions
from captum_dexar.decoding.raw_logits import check_log_probs
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from captum_dexar.decoding.steps import DecodingSteps
from captum_dexar.decoding.thread_context import ThreadContext
from captum_dexar.inputs import Prompt
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.precision import rounding_dtype
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import GrowingLogits, TargetLogits
from torch import Tensor

# Explains steps, given a cache of their prefix.
Explain = Callable[[DecodingSteps, PromptCache | None], StepAttributions]


class _Done(Exception):
    """The answer is complete."""


def no_stop_iteration(error: StopIteration) -> RuntimeError:
    """What a generator raises in its place: Python takes it for the generator's end."""
    return RuntimeError(
        "StopIteration was raised while an answer was streamed, by the model, the "
        "processor, or a hook, logits processor or stopping criterion of yours; the "
        "traceback above says where. A stream can't pass it on as it is, since a loop "
        "would take it for the end of the answer."
    )


class _StoppableWatch(GenerationWatch):
    """Stops generation when the consumer has gone."""

    stop: threading.Event

    def is_done(self, input_ids: Tensor) -> Tensor:
        return torch.full(
            (input_ids.shape[0],), self.stop.is_set(), device=input_ids.device
        )


class _Afterwards:
    """Explains tokens in separate passes, for methods that don't work online.

    When tokens have been chosen, the cache ends with the position that predicted the
    last of them. If possible, only the positions that predicted them are run again, on
    the cache cropped by as many; this restores the cache. Where generation has a cache
    that can't be cropped, one of our own is filled beside it.

    Args:
        prompt (Prompt): one prompt
        cache (DynamicCache or None): the cache of generation, if it can be cropped
        explain (Callable): explains steps on a cache of their prefix
        settings (sequence of str): names of the settings of generation
    """

    def __init__(
        self, prompt: Prompt, cache: Any, explain: Explain, settings: Sequence[str]
    ) -> None:
        self.prompt = prompt
        self.settings = settings
        self.cache = cache
        self.explain_steps = explain
        self.positions: list[Tensor | None] = []
        plan = prompt.adapter.reuse(prompt.inputs, prompt.config)
        self._is_replayed = plan == "replay"
        self._can_share_passes = True
        self._own: PromptCache | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes the position ids of the prompt, for running on its cache."""
        with watched_positions(self.prompt.model) as self.positions:
            yield

    def explain(
        self, answer: Tensor, target_logits: TargetLogits, first: int
    ) -> StepAttributions:
        """The attributions of the last tokens of an answer.

        Args:
            answer (Tensor): all its tokens so far, ``(1, tokens)``
            target_logits (TargetLogits): of the last tokens, in generating
            first (int): index of the first of them

        Raises:
            Inconsistent: a token is not explained as it was generated.
        """
        if self._can_share_passes and answer.shape[1] > first + 1:
            try:
                return self._explain(answer, target_logits, first)
            except Inconsistent:
                # A position may depend on which ones share its pass.
                self._can_share_passes = False
        return StepAttributions.joined(
            [
                self._explain(answer[:, : step + 1], of_step, step)
                for step, of_step in enumerate(target_logits.steps(), first)
            ]
        )

    def _explain(
        self, answer: Tensor, target_logits: TargetLogits, first: int
    ) -> StepAttributions:
        steps = DecodingSteps(self.prompt, answer, first_step=first)
        dtype = rounding_dtype(self.prompt.model)
        with kept_state(self.prompt.model):
            if not self._is_replayed:
                explained = self.explain_steps(steps, None)
            else:
                explained = self._on_cache(steps)
        check_log_probs(
            target_logits,
            explained.token_log_probs,
            dtype,
            [steps.num_steps],
            self.settings,
        )
        return explained

    def _on_cache(self, steps: DecodingSteps) -> StepAttributions:
        before = self._prefix(steps)
        assert before.cache is not None
        length = before.cache.get_seq_length()
        explained = self.explain_steps(steps, before)
        if before.cache.get_seq_length() == length:
            # The method did not use the cache.
            before.first_step = steps.first_step
            with torch.no_grad():
                steps.cached_pass(before).logits()
        return explained

    def _prefix(self, steps: DecodingSteps) -> PromptCache:
        """A cache of what is before some steps."""
        length = self.prompt.length - 1 + steps.first_step
        if self.cache is not None:
            (position,) = self.positions
            surplus = self.cache.get_seq_length() - length
            self.prompt.adapter.crop(self.cache, surplus, self.prompt.config)
            return PromptCache(self.cache, position, first_step=steps.first_step)
        own = self._own
        if own is None or own.cache is None or own.cache.get_seq_length() != length:
            self._own = own = steps.prefilled()
            # Tokens that were explained another way.
            earlier = steps.answer_ids[:, : steps.first_step]
            if earlier.shape[1]:
                with torch.no_grad():
                    DecodingSteps(self.prompt, earlier).cached_pass(own).logits()
        own.first_step = steps.first_step
        return own


class _Explaining:
    """Explains tokens online, or in separate passes where that is not possible.

    Args:
        online (OnlineAttribution or None): explains tokens out of the passes that
            predict them
        after (_Afterwards): explains them in other passes
        every (int): how many tokens are explained at a time, if the method does not
            ask for fewer
    """

    def __init__(
        self, online: OnlineAttribution | None, after: _Afterwards, every: int
    ) -> None:
        self.online = online
        self.after = after
        self.every = every
        self.num_waiting = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it passes are recorded, as far as needed."""
        with ExitStack() as stack:
            stack.enter_context(self.after.watching())
            if self.online is not None:
                stack.enter_context(self.online.watching())
            yield

    def takes(self, num_passes: int) -> bool:
        """Takes a token that was predicted in so many passes; whether those that wait
        are to be explained now."""
        self.num_waiting += 1
        if num_passes != 1:
            # Which of them is recorded under which token would be a guess.
            self._give_up_online()
        if self.num_waiting >= self.every:
            return True
        return self.online is not None and self.online.is_due(self.num_waiting)

    def explain(
        self, logits: GrowingLogits, answer: Tensor
    ) -> Iterator[tuple[Tensor, StepAttributions]]:
        """The tokens that wait, ``(1,)``, which are the last of an answer ``(1,
        tokens)``, and their attributions."""
        if not self.num_waiting:
            return
        first = logits.num_steps - self.num_waiting
        self.num_waiting = 0
        explained = self._explained(logits.since(first), answer, first)
        yield from zip(answer[:, first:].unbind(1), explained.steps())

    def _explained(
        self, target_logits: TargetLogits, answer: Tensor, first: int
    ) -> StepAttributions:
        if self.online is not None:
            try:
                return self.online.explain(answer[:, first:], target_logits, first)
            except Inconsistent:
                self._give_up_online()
        return self.after.explain(answer, target_logits, first)

    def _give_up_online(self) -> None:
        if self.online is not None:
            self.online.stop()
        self.online = None


def streamed(
    prompt: Prompt,
    gen_args: Mapping[str, Any] | None,
    online: OnlineAttribution | None,
    explain: Explain,
    every: int = 1,
) -> Generator[tuple[Tensor, StepAttributions], None, None]:
    """Generates an answer in a separate thread and explains it meanwhile.

    Args:
        prompt (Prompt): one prompt
        gen_args (Mapping or None): as in :func:`generate`
        online (OnlineAttribution or None): explains tokens out of the passes that
            predict them
        explain (Callable): without ``online``, called with the steps of some tokens
            and a cache of their prefix, or None
        every (int, optional): how many tokens are explained at a time. Default: 1

    Yields:
        Each token, ``(1,)``, with its attributions. Closing the iterator stops
        generation after the current token.

    Raises:
        ValueError: several beams, answers or tokens per pass are requested, so tokens
            are not final one by one.
        RuntimeError: generation did not start from the prompt, StopIteration was
            raised while generating, or the process was forked meanwhile.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    model: Any = prompt.model
    settings = GenerationSettings(model, arguments)
    settings.check(prompt)
    if settings.several_at_once:
        name = settings.several_at_once[0]
        value = settings[name]
        shown = value if isinstance(value, (int, float, str)) else type(value).__name__
        raise ValueError(
            f"{name}={shown} can't be streamed, because tokens are not "
            "final one by one. Use attribute()."
        )
    if not settings.holds_every_key:
        online = None
        arguments |= settings.without_compiling()
    # Must be read before our own cache is added to the arguments.
    cache = given_cache(prompt, settings, arguments)
    explaining = _Explaining(
        online, _Afterwards(prompt, cache, explain, settings.names), every
    )
    results: Queue[Any] = Queue()

    def put(sequences: Tensor, step: int) -> None:
        if step == 0:
            check_prompt(sequences, prompt)
        if explaining.takes(watch.num_passes):
            put_waiting(sequences)

    def put_waiting(sequences: Tensor) -> None:
        # Nobody waits for what is left when the consumer has gone.
        if not watch.stop.is_set():
            answer = sequences[:, prompt.length :].clone()
            for explained in explaining.explain(watch.target_logits, answer):
                results.put(explained)

    num_rivals = 0 if online is None else online.num_rivals
    watch = _StoppableWatch(model, put, settings.is_chunked, num_rivals)
    watch.stop = threading.Event()
    add_stopping_criterion(arguments, watch)

    def generate() -> None:
        try:
            with (
                torch.no_grad(),
                kept_state(model),
                watch.watching(),
                explaining.watching(),
            ):
                made = model.generate(**prompt.given_inputs, **arguments)
                sequences = getattr(made, "sequences", made)
                num_tokens = sequences.shape[1] - prompt.length
                if num_tokens != watch.target_logits.num_steps:
                    raise RuntimeError(
                        f"The model generated {num_tokens} tokens, but "
                        f"{watch.target_logits.num_steps} of its passes were seen: "
                        f"{type(model).__name__}.generate runs another module, or "
                        "several tokens in a pass. Use attribute()."
                    )
                put_waiting(sequences)
            results.put(_Done())
        except BaseException as error:  # re-raised in the consumer's thread
            results.put(error)

    context, process = ThreadContext(), os.getpid()
    thread = threading.Thread(
        target=context.run, args=(generate,), name="generating", daemon=True
    )
    thread.start()
    try:
        while True:
            if os.getpid() != process:
                raise RuntimeError(
                    "This stream was begun before the process was forked, and its "
                    "answer is generated in the parent only. Begin a new stream in "
                    "the child."
                )
            result = results.get()
            if isinstance(result, _Done):
                return
            if isinstance(result, StopIteration):
                raise no_stop_iteration(result) from result
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        watch.stop.set()
        thread.join()
