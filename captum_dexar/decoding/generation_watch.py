"""Observes each generated token and its logits as soon as it is chosen."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.model.target_logits import GrowingLogits
from captum_dexar.model.wrappers import generating
from torch import nn, Tensor
from transformers import StoppingCriteria

# Called with all tokens so far, ``(batch, tokens)``, and the index of the step.
OnToken = Callable[[Tensor, int], None]


class GenerationWatch(StoppingCriteria):
    """A stopping criterion that never stops but observes every token.

    The logits are the model's raw outputs, before any sampling temperature, penalty or
    filter.

    Args:
        model (nn.Module): the model that generates
        on_token (Callable): called after every token

    Attributes:
        target_logits (GrowingLogits): logits of the answer's tokens so far
    """

    def __init__(self, model: nn.Module, on_token: OnToken) -> None:
        self.model = model
        self.on_token = on_token
        self.target_logits = GrowingLogits()
        self._logits: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observes the model's forward passes in this thread."""
        thread = threading.get_ident()

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                self._logits = output.logits[:, -1:]

        handle = generating(self.model).register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._logits = None

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        if self._logits is not None:
            logits, self._logits = self._logits, None
            self.target_logits.add(logits, input_ids[:, -1:])
            del logits
            self.on_token(input_ids, self.target_logits.num_steps - 1)
        return self.is_done(input_ids)

    def is_done(self, input_ids: Tensor) -> Tensor:
        """Which examples stop here, ``(batch,)``."""
        return input_ids.new_zeros(input_ids.shape[0], dtype=torch.bool)


@contextmanager
def watched_encoder(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the encoder output passed to the first forward pass."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        outputs = kwargs.get("encoder_outputs")
        if not seen and outputs is not None:
            seen.append(outputs[0])

    handle = generating(model).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
