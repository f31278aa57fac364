"""Observes each generated token and its logits as soon as it is chosen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.model.target_logits import GrowingLogits
from captum_dexar.model.thread_hooks import forward_hooks, forward_pre_hooks
from captum_dexar.model.wrappers import generating
from torch import nn, Tensor
from transformers import StoppingCriteria

# Called with all tokens so far, ``(batch, tokens)``, and the index of the step.
OnToken = Callable[[Tensor, int], None]


class GenerationWatch(StoppingCriteria):
    """A stopping criterion that never stops but observes every token.

    The logits are the model's raw outputs, before any sampling temperature, penalty or
    filter. A token may take several passes, as when the model is also run without the
    prompt for guidance; ``generate`` then takes its logits from the first. Only of a
    prompt in chunks it takes those of the last.

    Args:
        model (nn.Module): the model that generates
        on_token (Callable): called after every token
        is_chunked (bool, optional): whether the prompt is run in chunks. Default: False
        num_rivals (int, optional): rivals of each token that are kept. Default: 0

    Attributes:
        target_logits (GrowingLogits): logits of the answer's tokens so far
        sequences (Tensor or None): all tokens so far, ``(batch, tokens)``
        num_passes (int): how often the model ran for the newest token
    """

    def __init__(
        self,
        model: nn.Module,
        on_token: OnToken,
        is_chunked: bool = False,
        num_rivals: int = 0,
    ) -> None:
        self.model = model
        self.is_chunked = is_chunked
        self.on_token = on_token
        self.target_logits = GrowingLogits(num_rivals)
        self.sequences: Tensor | None = None
        self.num_passes = 0
        self._logits: Tensor | None = None
        self._is_watching = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observes the model's forward passes in this thread."""

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if not self._is_watching:
                return
            self.num_passes += 1
            is_prompt = self.is_chunked and self.sequences is None
            if self._logits is None or is_prompt:
                self._logits = output.logits[:, -1:]

        try:
            with forward_hooks({generating(self.model): keep}):
                yield
        finally:
            self._logits = None

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        if self._logits is not None:
            logits, self._logits = self._logits, None
            self.target_logits.add(logits, input_ids[:, -1:])
            del logits
            self.sequences = input_ids
            # What explains the token may run the model too.
            self._is_watching = False
            try:
                self.on_token(input_ids, self.target_logits.num_steps - 1)
            finally:
                self._is_watching, self.num_passes = True, 0
        return self.is_done(input_ids)

    def is_done(self, input_ids: Tensor) -> Tensor:
        """Which examples stop here, ``(batch,)``."""
        return input_ids.new_zeros(input_ids.shape[0], dtype=torch.bool)


@contextmanager
def watched_encoder(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the encoder output passed to this thread's first forward pass."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        outputs = kwargs.get("encoder_outputs")
        if not seen and outputs is not None:
            seen.append(outputs[0])

    with forward_pre_hooks({generating(model): keep}, with_kwargs=True):
        yield seen
