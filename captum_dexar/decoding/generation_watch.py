"""Knowing each token, and the model's logits of it, as soon as it is chosen."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.model.target_logits import GrowingLogits
from torch import nn, Tensor
from transformers import StoppingCriteria

# Called with all tokens so far, ``(batch, prompt and answer)``, and the step's number.
OnToken = Callable[[Tensor, int], None]


class GenerationWatch(StoppingCriteria):
    """A stopping criterion that stops nothing, and learns of every token.

    The model's logits are those of its passes, before any sampling temperature,
    penalty or filter.

    Args:
        model (nn.Module): the model that generates
        on_token (Callable): called after every token

    Attributes:
        target_logits (GrowingLogits): the model's logits of the answer's tokens so far
    """

    def __init__(self, model: nn.Module, on_token: OnToken) -> None:
        self.model = model
        self.on_token = on_token
        self.target_logits = GrowingLogits()
        self._logits: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it this thread's passes of the model are watched."""
        thread = threading.get_ident()

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                self._logits = output.logits[:, -1:]

        handle = _running(self.model).register_forward_hook(keep)
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
        """Which examples are to stop here, ``(batch,)``: none."""
        return torch.zeros(
            input_ids.shape[0], dtype=torch.bool, device=input_ids.device
        )


@contextmanager
def watched_encoder(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the encoder's output that the first pass within it is given."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        outputs = kwargs.get("encoder_outputs")
        if not seen and outputs is not None:
            seen.append(outputs[0])

    handle = _running(model).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _running(model: nn.Module) -> nn.Module:
    """What generating runs: not peft's wrapper of a model, but the model in it."""
    unwrap: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()
