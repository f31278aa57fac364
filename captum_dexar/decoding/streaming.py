"""Explaining a token while the next one is still being decoded."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from queue import Queue
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding import (
    DecodingSteps,
    new_cache,
    PromptCache,
    watched_positions,
)
from captum_dexar.decoding.generation import GenerationSettings
from captum_dexar.decoding.generation_watch import GenerationWatch
from captum_dexar.decoding.step_attributions import OnlineAttribution
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor
from transformers import StoppingCriteriaList

# What one step gives: its token, and what explaining it on what is before it made.
Explain = Callable[[DecodingSteps, PromptCache | None], Any]
NOT_STREAMED = (
    "num_beams",
    "num_return_sequences",
    "prompt_lookup_num_tokens",
    "assistant_model",
)


class _Done(Exception):
    """Nothing more will come."""


class _StoppableWatch(GenerationWatch):
    """Ends generating once nobody waits for more."""

    stop: threading.Event

    def is_done(self, input_ids: Tensor) -> Tensor:
        return torch.full(
            (input_ids.shape[0],), self.stop.is_set(), device=input_ids.device
        )


class _AfterEachToken:
    """Explains each token by a pass of its own, for methods that are not online.

    When a token has been chosen, the cache ends with the position that predicted it.
    Where that can be run once more, on the cache of what is before it, the prompt is
    not; which leaves the cache as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        arguments: dict[str, Any],
        explain: Explain,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.explain_step = explain
        self.positions: list[Tensor | None] = []
        self.tokens: list[Tensor] = []
        nothing = torch.zeros(1, 1, dtype=torch.long)
        steps = DecodingSteps(model, inputs, nothing)
        self.adapter, self.config = steps.adapter, steps.config
        self.cache: Any = None
        settings = GenerationSettings(model, arguments)
        if (
            settings.takes_a_cache
            and self.adapter.reuse(steps.inputs, self.config) == "replay"
        ):
            self.cache = new_cache(self.config, self.adapter, goes_back=True)
            arguments["past_key_values"] = self.cache

    @contextmanager
    def watching(self) -> Iterator[None]:
        with watched_positions(self.model) as self.positions:
            yield

    def explain(self, token: Tensor, target_logits: TargetLogits, number: int) -> Any:
        self.tokens.append(token)
        answer = torch.cat(self.tokens, dim=1)
        *_, prefix = DecodingSteps(self.model, self.inputs, answer).prefixes()
        step = DecodingSteps(self.model, prefix, token, target_logits)
        before = None
        if self.cache is not None:
            (position,) = self.positions
            before = PromptCache(
                self.cache, None if position is None else position + number
            )
            self.adapter.crop(self.cache, 1, self.config)
        length = 0 if self.cache is None else self.cache.get_seq_length()
        with kept_state(self.model):
            explained = self.explain_step(step, before)
            if before is not None and self.cache.get_seq_length() == length:
                # The method had no use for the cache.
                before.first_step = 0
                with torch.no_grad():
                    step.cached_pass(before).logits()
        return explained


def streamed(
    model: nn.Module,
    inputs: Mapping[str, Any],
    gen_args: Mapping[str, Any] | None,
    online: OnlineAttribution | None,
    explain: Explain,
) -> Generator[tuple[Tensor, Any], None, None]:
    """Generates an answer in a thread of its own, and explains each token at once.

    Args:
        model (nn.Module): the vision-language model
        inputs (Mapping): its inputs for one prompt
        gen_args (Mapping or None): arguments of ``model.generate``; None for Captum's
            default, at most 25 tokens, greedily
        online (OnlineAttribution or None): explains a token in the pass that predicts it
        explain (Callable): without that called with the one step of each token and a
            cache of what is before it, or None

    Yields:
        Each token, ``(1,)``, with its attributions. Closing the iterator stops
        generating after the token at hand.

    Raises:
        ValueError: several beams or answers are asked for, or several tokens a pass, of
            which no token is known before the end.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    settings = GenerationSettings(model, arguments)
    for name in NOT_STREAMED:
        if name in arguments and (settings[name] or 1) != 1:
            raise ValueError(
                f"{name}={arguments[name]} can't be streamed: which tokens the answer "
                "has is not known one by one. Use attribute()."
            )
    at_each: Any = online
    if online is None:
        at_each = _AfterEachToken(model, inputs, arguments, explain)
    results: Queue[Any] = Queue()

    def put(sequences: Tensor, step: int) -> None:
        token, target_logits = sequences[:, -1:].clone(), watch.target_logits.since(
            step
        )
        results.put((token[:, 0], at_each.explain(token, target_logits, step)))

    watch = _StoppableWatch(model, put)
    watch.stop = threading.Event()
    given = arguments.get("stopping_criteria") or []
    arguments["stopping_criteria"] = StoppingCriteriaList([*given, watch])

    def generate() -> None:
        generating: Any = model
        try:
            with (
                torch.no_grad(),
                kept_state(model),
                watch.watching(),
                at_each.watching(),
            ):
                generating.generate(**inputs, **arguments)
            results.put(_Done())
        except BaseException as error:  # handed to the thread that waits for it
            results.put(error)

    thread = threading.Thread(target=generate, name="generating", daemon=True)
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
