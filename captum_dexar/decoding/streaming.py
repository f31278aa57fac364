"""Explains each token while the answer is still being generated."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from queue import Queue
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding.generation import (
    add_stopping_criterion,
    GenerationSettings,
    given_cache,
)
from captum_dexar.decoding.generation_watch import GenerationWatch
from captum_dexar.decoding.prompt_cache import PromptCache, watched_positions
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from captum_dexar.decoding.steps import DecodingSteps
from captum_dexar.decoding.thread_context import ThreadContext
from captum_dexar.inputs import Prompt
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor

# Explains one step, given a cache of its prefix.
Explain = Callable[[DecodingSteps, PromptCache | None], StepAttributions]
NOT_STREAMED = (
    "num_beams",
    "num_return_sequences",
    "prompt_lookup_num_tokens",
    "assistant_model",
)


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
    restores the cache.
    """

    def __init__(
        self, prompt: Prompt, arguments: dict[str, Any], explain: Explain
    ) -> None:
        self.prompt = prompt
        self.explain_step = explain
        self.positions: list[Tensor | None] = []
        self.tokens: list[Tensor] = []
        settings = GenerationSettings(prompt.model, arguments)
        self.cache: Any = given_cache(prompt, settings, arguments)

    @contextmanager
    def watching(self) -> Iterator[None]:
        with watched_positions(self.prompt.model) as self.positions:
            yield

    def explain(
        self, token: Tensor, target_logits: TargetLogits, number: int
    ) -> StepAttributions:
        self.tokens.append(token)
        answer = torch.cat(self.tokens, dim=1)
        step = DecodingSteps(self.prompt, answer, target_logits, first_step=number)
        if self.cache is None:
            with kept_state(self.prompt.model):
                return self.explain_step(step, None)
        (position,) = self.positions
        self.prompt.adapter.crop(self.cache, 1, self.prompt.config)
        length = self.cache.get_seq_length()
        before = PromptCache(self.cache, position, first_step=number)
        with kept_state(self.prompt.model):
            explained = self.explain_step(step, before)
            if self.cache.get_seq_length() == length:
                # The method did not use the cache.
                before.first_step = number
                with torch.no_grad():
                    step.cached_pass(before).logits()
        return explained


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
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    model: Any = prompt.model
    settings = GenerationSettings(model, arguments)
    for name in NOT_STREAMED:
        if name in arguments and (settings[name] or 1) != 1:
            raise ValueError(
                f"{name}={arguments[name]} can't be streamed, because tokens are not "
                "final one by one. Use attribute()."
            )
    at_each: Any = online
    if online is None:
        at_each = _AfterEachToken(prompt, arguments, explain)
    results: Queue[Any] = Queue()

    def put(sequences: Tensor, step: int) -> None:
        token = sequences[:, -1:].clone()
        target_logits = watch.target_logits.since(step)
        results.put((token[:, 0], at_each.explain(token, target_logits, step)))

    watch = _StoppableWatch(model, put)
    watch.stop = threading.Event()
    add_stopping_criterion(arguments, watch)

    def generate() -> None:
        try:
            with (
                torch.no_grad(),
                kept_state(model),
                watch.watching(),
                at_each.watching(),
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
