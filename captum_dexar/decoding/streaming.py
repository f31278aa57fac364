"""Explains each token while the answer is still being generated."""

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
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor

# Explains one step, given a cache of its prefix.
Explain = Callable[[DecodingSteps, PromptCache | None], StepAttributions]


class _Done(Exception):
    """The answer is complete."""


class _StoppableWatch(GenerationWatch):
    """Stops generation when the consumer has gone."""

    stop: threading.Event

    def is_done(self, input_ids: Tensor) -> Tensor:
        return torch.full(
            (input_ids.shape[0],), self.stop.is_set(), device=input_ids.device
        )


class _AfterEachToken:
    """Explains each token in a separate pass, for methods that don't work online.

    When a token has been chosen, the cache ends with the position that predicted it. If
    possible, only that position is run again, on the cache cropped by one; this
    restores the cache. Where generation has a cache that can't be cropped, one of our
    own is filled beside it.

    Args:
        prompt (Prompt): one prompt
        cache (DynamicCache or None): the cache of generation, if it can be cropped
        explain (Callable): explains a step on a cache of its prefix
        settings (sequence of str): names of the settings of generation
    """

    def __init__(
        self, prompt: Prompt, cache: Any, explain: Explain, settings: Sequence[str]
    ) -> None:
        self.prompt = prompt
        self.settings = settings
        self.cache = cache
        self.explain_step = explain
        self.positions: list[Tensor | None] = []
        plan = prompt.adapter.reuse(prompt.inputs, prompt.config)
        self._is_replayed = plan == "replay"
        self._own: PromptCache | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes the position ids of the prompt, for running on its cache."""
        with watched_positions(self.prompt.model) as self.positions:
            yield

    def explain(
        self, answer: Tensor, target_logits: TargetLogits, number: int
    ) -> StepAttributions:
        """The attributions of the last token of an answer.

        Args:
            answer (Tensor): all its tokens so far, ``(1, tokens)``
            target_logits (TargetLogits): of the last token, in generating
            number (int): index of the last token
        """
        step = DecodingSteps(self.prompt, answer, first_step=number)
        dtype = rounding_dtype(self.prompt.model)
        with kept_state(self.prompt.model):
            if not self._is_replayed:
                explained = self.explain_step(step, None)
            else:
                explained = self._on_cache(step, number)
        check_log_probs(
            target_logits, explained.token_log_probs, dtype, [1], self.settings
        )
        return explained

    def _on_cache(self, step: DecodingSteps, number: int) -> StepAttributions:
        if self.cache is not None:
            (position,) = self.positions
            self.prompt.adapter.crop(self.cache, 1, self.prompt.config)
            before = PromptCache(self.cache, position, first_step=number)
        else:
            if self._own is None:
                self._own = step.prefilled()
                # Tokens that were explained another way.
                earlier = DecodingSteps(self.prompt, step.answer_ids[:, :number])
                if number:
                    with torch.no_grad():
                        earlier.cached_pass(self._own).logits()
            self._own.first_step = number
            before = self._own
        assert before.cache is not None
        length = before.cache.get_seq_length()
        explained = self.explain_step(step, before)
        if before.cache.get_seq_length() == length:
            # The method did not use the cache.
            before.first_step = number
            with torch.no_grad():
                step.cached_pass(before).logits()
        return explained


class _Explaining:
    """Explains tokens online, or each in a separate pass where that is not possible.

    Args:
        online (OnlineAttribution or None): explains a token in the pass that predicts
            it
        after (_AfterEachToken): explains it in another pass
    """

    def __init__(
        self, online: OnlineAttribution | None, after: _AfterEachToken
    ) -> None:
        self.online = online
        self.after = after

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it passes are recorded, as far as needed."""
        with ExitStack() as stack:
            stack.enter_context(self.after.watching())
            if self.online is not None:
                stack.enter_context(self.online.watching())
            yield

    def explain(self, watch: GenerationWatch, answer: Tensor) -> StepAttributions:
        """The attributions of the last token of an answer, ``(1, tokens)``."""
        number = watch.target_logits.num_steps - 1
        target_logits = watch.target_logits.since(number)
        if self.online is not None:
            try:
                if watch.num_passes == 1:
                    return self.online.explain(answer[:, -1:], target_logits, number)
            except Inconsistent:
                pass
            self.online.stop()
            self.online = None
        return self.after.explain(answer, target_logits, number)


def streamed(
    prompt: Prompt,
    gen_args: Mapping[str, Any] | None,
    online: OnlineAttribution | None,
    explain: Explain,
) -> Generator[tuple[Tensor, StepAttributions], None, None]:
    """Generates an answer in a separate thread and explains each token immediately.

    Args:
        prompt (Prompt): one prompt
        gen_args (Mapping or None): as in :func:`generate`
        online (OnlineAttribution or None): explains a token in the pass that predicts
            it
        explain (Callable): without ``online``, called with each token's step and a
            cache of its prefix, or None

    Yields:
        Each token, ``(1,)``, with its attributions. Closing the iterator stops
        generation after the current token.

    Raises:
        ValueError: several beams, answers or tokens per pass are requested, so tokens
            are not final one by one.
        RuntimeError: generation did not start from the prompt.
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
    cache = None if online is not None else given_cache(prompt, settings, arguments)
    explaining = _Explaining(
        online, _AfterEachToken(prompt, cache, explain, settings.names)
    )
    results: Queue[Any] = Queue()

    def put(sequences: Tensor, step: int) -> None:
        if step == 0:
            check_prompt(sequences, prompt)
        answer = sequences[:, prompt.length :].clone()
        results.put((answer[:, -1], explaining.explain(watch, answer)))

    watch = _StoppableWatch(model, put, settings.is_chunked)
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
                sequences = model.generate(**prompt.given_inputs, **arguments)
            num_tokens = getattr(sequences, "sequences", sequences).shape[1]
            if num_tokens - prompt.length != watch.target_logits.num_steps:
                raise RuntimeError(
                    f"The model generated {num_tokens - prompt.length} tokens, but "
                    f"{watch.target_logits.num_steps} of its passes were seen: "
                    f"{type(model).__name__}.generate runs another module, or several "
                    "tokens in a pass. Use attribute()."
                )
            results.put(_Done())
        except BaseException as error:  # re-raised in the consumer's thread
            results.put(error)

    context = ThreadContext()
    thread = threading.Thread(
        target=context.run, args=(generate,), name="generating", daemon=True
    )
    thread.start()
    try:
        while True:
            result = results.get()
            if isinstance(result, _Done):
                return
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        watch.stop.set()
        thread.join()
