"""Attention gradients of a token out of the very pass that predicts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.attention_gradients.closed_form import check_lens
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.attention_gradients.local_graphs import LocalGraph, LocalGraphs
from captum_dexar.attention_gradients.online_gradients import OnlineGradients
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class LiveGraphs(OnlineGradients):
    """Explains each step of an answer by graphs that its own pass has left.

    While a model generates, the rear part of each layer is run with a graph, of one
    position. Which token it predicts need not be known: only the gradient does, once it
    is. Nothing is run again, which for a single step costs more than it saves.

    Args:
        *args, **kwargs: as in :class:`OnlineGradients`
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: list[LocalGraph] = []
        self._graphs = LocalGraphs(
            self.decoder,
            self.layers,
            _last_row,
            self._kept.append,
            self.attention_power,
            self.cross_attention,
            max_rows=1,
            with_products=self.with_products,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See :meth:`OnlineGradients.watching`."""
        try:
            with self._graphs.watching():
                yield
        finally:
            self._kept.clear()

    def explain(
        self,
        target_ids: Tensor,
        target_logits: TargetLogits,
        first_step: int,
        consume: Consumer,
        contrast_ids: Tensor | None = None,
    ) -> None:
        """Explains the one step of the pass since the last call; see
        :meth:`OnlineGradients.explain`."""
        contraction = self._contraction(target_ids, first_step, contrast_ids)
        graphs, self._kept[:] = list(self._kept), []
        assert self._graphs.last_hidden is not None
        check_lens(contraction.lens, self._graphs.last_hidden, target_logits)
        for graph in graphs:
            contraction(graph, self.num_keys + first_step, consume)


def _last_row(num_queries: int) -> Tensor | None:
    return None if num_queries == 1 else torch.tensor([num_queries - 1])
