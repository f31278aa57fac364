r"""Attention gradients without attention matrices.

The attention output of head ``i`` at query ``q`` is
:math:`x_i = \sum_j A_i[q, j] \, v_i[j]`, and nothing else of the layer depends on
``A``. With :math:`c_i = d o / d x_i` the gradient is therefore, exactly and for any
softmax, mask, scaling, soft cap or sink,

.. math:: \frac{d o}{d A_i[q, j]} = \langle v_i[j], c_i \rangle .

``c`` comes from a backward pass through one layer's rear part (output projection,
residual, MLP, norms) at the explained rows. No graph spans two layers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from captum_dexar.attention_gradients.contraction import contract, joined_heads
from captum_dexar.attention_gradients.differentiable import check_differentiable
from captum_dexar.attention_gradients.gradients import (
    Consumer,
    ExplainedPass,
    LayerGradients,
)
from captum_dexar.attention_gradients.key_blocks import (
    key_blocks,
    KeyBlocks,
    TEXT_BLOCK,
)
from captum_dexar.attention_gradients.local_graphs import (
    AttentionCall,
    LocalGraph,
    LocalGraphs,
)
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.precision import widened
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor

# Gradients of so many heads, steps and keys are held at once.
GRADIENTS_AT_ONCE = 2**23
# Rows of a graph where a layer is run again for them.
MAX_ROWS = 256


class ClosedForm:
    """Explains the rows of one forward pass, under any attention function.

    Args:
        explained_pass (ExplainedPass): the pass and its explained rows
        max_rows (int, optional): rows of one graph, where layers are run again for
            them. Default: 256
        attention_power (float, optional): gradients are multiplied by the attention
            probabilities to this power. Other than 0, the probabilities of the
            explained rows are computed again. Default: 0.0
        grad_kwargs (Mapping, optional): further arguments of ``torch.autograd.grad``.
            Default: None
        contrast_ids (Tensor, optional): tokens whose readings are subtracted from the
            targets', ``(batch, steps of the answer)``; -1 for none. Default: None
        with_products (bool, optional): whether a layer that is run again takes over the
            outputs of its projections; see :class:`RearParts`. Default: False
    """

    def __init__(
        self,
        explained_pass: ExplainedPass,
        max_rows: int = MAX_ROWS,
        attention_power: float = 0.0,
        grad_kwargs: Mapping[str, Any] | None = None,
        contrast_ids: Tensor | None = None,
        with_products: bool = False,
    ) -> None:
        self.explained_pass = explained_pass
        self.attention_power = attention_power
        self.grad_kwargs = dict(grad_kwargs or {})
        self.contrast_ids = contrast_ids
        self.max_rows = max_rows
        self.with_products = with_products

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> TargetLogits:
        """Runs the pass once; see :class:`AttentionGradients`."""
        explained = self.explained_pass
        contrast_ids = self.contrast_ids
        if contrast_ids is not None:
            first, steps = explained.first_step, explained.query_positions.shape[0]
            contrast_ids = contrast_ids[:, first : first + steps]
        lens = LogitLens(decoder, explained.target_ids, contrast_ids)
        contraction = Contraction(
            lens,
            explained.image_keys,
            explained.cross_attention is not None,
            self.grad_kwargs,
            explained.first_step,
        )
        seen: set[int] = set()

        def explain(graph: LocalGraph) -> None:
            seen.add(graph.layer)
            contraction(graph, explained.num_keys, consume)

        def rows_of(num_queries: int) -> Tensor | None:
            is_all = len(explained.query_positions) == num_queries
            return None if is_all else explained.query_positions

        graphs = LocalGraphs(
            decoder,
            layers,
            rows_of,
            explain,
            self.attention_power,
            explained.cross_attention,
            self.max_rows,
            self.with_products,
        )
        with graphs.watching():
            target_logits = explained.run()
        if not seen:
            raise RuntimeError(
                "None of the explained layers called its attention function through "
                "the attention interface of transformers, so that there is nothing to "
                'explain. Use LayerDexAR(..., engine="autograd") for such a model.'
            )
        if graphs.last_hidden is None:
            raise RuntimeError(
                "The last decoder layer did not run in the forward pass."
            )
        check_lens(lens, graphs.last_hidden, target_logits)
        return target_logits


def check_lens(
    lens: LogitLens, last_hidden: Tensor, target_logits: TargetLogits
) -> None:
    """Raises unless the lens on the last layer gives the model's own logits."""
    uncontrasted = lens
    if lens.contrast_ids is not None:
        uncontrasted = LogitLens(lens.decoder, lens.target_ids)
    with torch.no_grad():
        reading = uncontrasted.read(last_hidden)
    lens.decoder.check_reading(reading, lens.target_ids, target_logits)


class Contraction:
    """From a layer's local graph to the gradients of its attention probabilities.

    Args:
        lens (LogitLens): the reading of the explained tokens
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        reads_by_cross_attention (bool): whether they are keys of a cross-attention
        grad_kwargs (Mapping): further arguments of ``torch.autograd.grad``
        first_step (int): number of the first explained step in its answer
    """

    def __init__(
        self,
        lens: LogitLens,
        image_keys: Tensor,
        reads_by_cross_attention: bool,
        grad_kwargs: Mapping[str, Any],
        first_step: int = 0,
    ) -> None:
        self.lens = lens
        self.image_keys = image_keys
        self.reads_by_cross_attention = reads_by_cross_attention
        self.grad_kwargs = dict(grad_kwargs)
        self.first_step = first_step
        self._blocks: dict[tuple[Any, ...], KeyBlocks] = {}

    def __call__(self, graph: LocalGraph, num_keys: int, consume: Consumer) -> None:
        """Hands over the gradients of one layer, a part of the steps at a time.

        Args:
            graph (LocalGraph): the layer's graph
            num_keys (int): keys of a self-attention, those included that are not held
            consume (Callable): takes the gradients
        """
        scale = self.lens.scale if graph.hidden.dtype == torch.float16 else 1.0
        with torch.enable_grad():
            reading = self.lens.read(graph.hidden, graph.part).sum()
            if scale != 1.0:
                reading = reading * scale
        check_differentiable(reading, graph.layer)
        gradients = torch.autograd.grad(reading, graph.outputs, **self.grad_kwargs)
        if graph.kept is not None:
            gradients = tuple(
                gradient[:, graph.kept.to(gradient.device)] for gradient in gradients
            )
        if scale != 1.0:
            gradients = tuple(widened(gradient) / scale for gradient in gradients)
        num_rows = graph.hidden.shape[1]
        batch, _, heads, _ = gradients[0].shape
        a_row = batch * heads * max(self.image_keys.shape[1], TEXT_BLOCK)
        at_once = max(1, GRADIENTS_AT_ONCE // a_row)
        with torch.no_grad():
            for start in range(0, num_rows, at_once):
                stop = min(start + at_once, num_rows)
                consume(self._part(graph, gradients, num_keys, start, stop))

    def _part(
        self,
        graph: LocalGraph,
        gradients: tuple[Tensor, ...],
        num_keys: int,
        start: int,
        stop: int,
    ) -> LayerGradients:
        """The gradients of some rows of a graph."""
        first = graph.part.start
        rows = slice(first + start, first + stop)
        steps = slice(self.first_step + rows.start, self.first_step + rows.stop)
        contracted = []
        for call, gradient in zip(graph.calls, gradients):
            attention = call.attention
            if attention is not None:
                attention = attention[:, :, rows]
            contracted.append(
                contract(
                    graph.layer,
                    widened(gradient[:, start:stop]),
                    call.value,
                    self._key_blocks(call, num_keys, rows),
                    attention,
                    steps,
                )
            )
        return joined_heads(contracted, self.image_keys.shape[1])

    def _key_blocks(self, call: AttentionCall, num_keys: int, rows: slice) -> KeyBlocks:
        """The same for all layers that mask alike."""
        key = (*call.mask_key, num_keys, rows.start, rows.stop)
        if key not in self._blocks:
            held_keys = call.value.shape[2]
            allowed = call.allowed()
            if allowed is not None and allowed.shape[2] > 1:
                allowed = allowed[:, :, rows]
            reads_image = call.is_cross or not self.reads_by_cross_attention
            self._blocks[key] = key_blocks(
                self.image_keys if reads_image else None,
                held_keys if call.is_cross else num_keys,
                held_keys,
                allowed,
                rows.stop - rows.start,
                call.value.device,
            )
        return self._blocks[key]
