"""Explaining a token while the next one is still being decoded."""

import threading
from collections.abc import Callable, Generator, Mapping
from queue import Queue
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding import DecodingSteps
from captum_dexar.generation import prompt_ids, recording_cache
from captum_dexar.model_state import kept_state
from torch import nn, Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

# What one step gives: its token, and what explaining it made.
Explain = Callable[[DecodingSteps, Any], Any]


class _Done(Exception):
    """Nothing more will come."""


class _AfterEachToken(StoppingCriteria):
    """Explains the newest token between two decoding steps.

    At that moment the cache ends with the position that predicted the token. It is run
    once more, on the cache of what is before it, which leaves the cache as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        cache: Any,
        explain: Explain,
        results: "Queue[Any]",
        stop: threading.Event,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.prompt_length = prompt_ids(model, inputs).shape[1]
        self.cache = cache
        self.explain = explain
        self.results = results
        self.stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        answer = input_ids[:, self.prompt_length :]
        known = DecodingSteps(self.model, self.inputs, answer)
        *_, prefix = known.prefixes()
        step = DecodingSteps(self.model, prefix, answer[:, -1:])
        cache, length = None, 0
        if self.cache is not None:
            cache, length = self.cache, self.cache.get_seq_length()
            cache.crop(-1)
        with kept_state(self.model):
            explained = self.explain(step, cache)
            if cache is not None and cache.get_seq_length() < length:
                # The method had no use for the cache.
                with torch.no_grad():
                    step.cached_pass(cache).run()
        self.results.put((answer[:, -1], explained))
        is_stopped = self.stop.is_set()
        return torch.full((input_ids.shape[0],), is_stopped, device=input_ids.device)


def streamed(
    model: nn.Module,
    inputs: Mapping[str, Any],
    gen_args: Mapping[str, Any] | None,
    explain: Explain,
) -> Generator[tuple[Tensor, Any], None, None]:
    """Generates an answer in a thread of its own, and explains each token at once.

    Args:
        model (nn.Module): the vision-language model
        inputs (Mapping): its inputs for one prompt
        gen_args (Mapping or None): arguments of ``model.generate``; None for Captum's
            default, at most 25 tokens, greedily
        explain (Callable): called with the one step of each token and a cache of what
            is before it, or None

    Yields:
        Each token, ``(1,)``, with what ``explain`` made of it. Closing the iterator
        stops generating after the token at hand.

    Raises:
        ValueError: several beams or answers are asked for, of which no token is known
            before the end.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    for name in ("num_beams", "num_return_sequences"):
        if (arguments.get(name) or 1) != 1:
            raise ValueError(
                f"{name}={arguments[name]} can't be streamed: which tokens the answer "
                "has is known at its end only. Use attribute()."
            )
    cache = recording_cache(model, inputs, arguments)
    if cache is not None:
        arguments["past_key_values"] = cache
    results: Queue[Any] = Queue()
    stop = threading.Event()
    criterion = _AfterEachToken(model, inputs, cache, explain, results, stop)
    given = arguments.pop("stopping_criteria", [])
    arguments["stopping_criteria"] = StoppingCriteriaList([*given, criterion])

    def generate() -> None:
        generating: Any = model
        try:
            with torch.no_grad(), kept_state(model):
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
        stop.set()
        thread.join()
