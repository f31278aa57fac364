"""Attention gradients of a token out of the very pass that predicts it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.attention_gradients.closed_form import check_lens, Contraction
from captum_dexar.attention_gradients.decoder import Decoder
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.attention_gradients.local_graphs import LocalGraph, LocalGraphs
from captum_dexar.attention_gradients.logit_lens import LogitLens
from captum_dexar.attention_gradients.target_logits import TargetLogits
from torch import Tensor


class LiveGradients:
    """Explains the last position of passes that a model makes on its own.

    While a model generates, the layers' local graphs of the last position are kept
    until its token is known. No position is run a second time, and what the token is
    explained by is what predicted it, whatever cache the model uses.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the explained layers
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        num_keys (int): keys of a self-attention at the first pass: the prompt's length
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if not the self-attention does
        attention_power (float): as in :class:`ClosedForm`
        grad_kwargs (Mapping or None): as in :class:`ClosedForm`
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int],
        image_keys: Tensor,
        num_keys: int,
        cross_attention: str | None,
        attention_power: float = 0.0,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.decoder = decoder
        self.image_keys = image_keys
        self.num_keys = num_keys
        self.cross_attention = cross_attention
        self.grad_kwargs = dict(grad_kwargs or {})
        self._kept: list[LocalGraph] = []
        self._graphs = LocalGraphs(
            decoder,
            layers,
            _last_of,
            self._kept.append,
            attention_power,
            cross_attention,
            max_rows=1,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it the passes of this thread can be explained."""
        try:
            with self._graphs.watching():
                yield
        finally:
            self._forget()

    def explain(
        self, target_ids: Tensor, said: TargetLogits, step: int, consume: Consumer
    ) -> None:
        """Explains what the last pass predicted.

        Args:
            target_ids (Tensor): the token, ``(batch, 1)``
            said (TargetLogits): its logits in that pass
            step (int): its number in the answer
            consume (Callable): takes the gradients of each layer
        """
        lens = LogitLens(self.decoder, target_ids)
        contraction = Contraction(
            lens,
            self.image_keys,
            self.cross_attention is not None,
            self.grad_kwargs,
            first_step=step,
        )
        if not self._kept:
            raise RuntimeError(
                "No layer called its attention function through the attention "
                "interface of transformers, so that there is nothing to explain. Use "
                "attribute() with the autograd engine."
            )
        for graph in self._kept:
            contraction(graph, self.num_keys + step, consume)
        check_lens(lens, self._graphs, said)
        self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self._graphs.forget()


def _last_of(num_queries: int) -> Tensor | None:
    return None if num_queries == 1 else torch.tensor([num_queries - 1])
