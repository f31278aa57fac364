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


class LiveGraphs:
    """Explains each step of an answer by graphs that its own pass has left.

    While a model generates, the rear part of each layer is run with a graph, of one
    position. Which token it predicts need not be known: only the gradient does, once it
    is. Nothing is run again, which for a single step costs more than it saves.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the explained layers
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        num_keys (int): keys of a self-attention at the first pass: the prompt's length
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if not the self-attention does
        with_products (bool): as in :class:`ClosedForm`
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
        with_products: bool,
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
            _last_row,
            self._kept.append,
            attention_power,
            cross_attention,
            max_rows=1,
            with_products=with_products,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it the passes of this thread can be explained; parameters have to be
        frozen."""
        try:
            with self._graphs.watching():
                yield
        finally:
            self._kept.clear()

    def num_bytes(self) -> int:
        """What is recorded and not yet explained: graphs of one position don't
        count."""
        return 0

    def explain(
        self,
        target_ids: Tensor,
        said: TargetLogits,
        first_step: int,
        consume: Consumer,
        contrast_ids: Tensor | None = None,
    ) -> None:
        """Explains what the pass since the last call predicted.

        Args:
            target_ids (Tensor): the token, ``(batch, 1)``
            said (TargetLogits): its logits in this pass
            first_step (int): its number in the answer
            consume (Callable): takes the gradients of each layer
            contrast_ids (Tensor, optional): as in :class:`ClosedForm`. Default: None

        Raises:
            RuntimeError: the logit lens does not give the model's logits.
        """
        lens = LogitLens(self.decoder, target_ids, contrast_ids)
        contraction = Contraction(
            lens,
            self.image_keys,
            self.cross_attention is not None,
            self.grad_kwargs,
            first_step,
        )
        graphs, self._kept[:] = list(self._kept), []
        assert self._graphs.last_hidden is not None
        check_lens(lens, self._graphs.last_hidden, said)
        for graph in graphs:
            contraction(graph, self.num_keys + first_step, consume)


def _last_row(num_queries: int) -> Tensor | None:
    return None if num_queries == 1 else torch.tensor([num_queries - 1])
