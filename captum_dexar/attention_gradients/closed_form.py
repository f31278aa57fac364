r"""Attention gradients without attention matrices.

The attention output of head ``i`` at query ``q`` is
:math:`x_i = \sum_j A_i[q, j] \, v_i[j]`, and nothing else of the layer depends on
``A``. With :math:`c_i = d o / d x_i` the gradient is therefore, exactly and for any
softmax, mask, scaling, soft cap or sink,

.. math:: \frac{d o}{d A_i[q, j]} = \langle v_i[j], c_i \rangle .

``c`` comes from a backward pass through the part of one layer after its attention
(output projection, residual, MLP, norms) at the explained positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captum_dexar.attention_gradients.contraction import Contraction
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.attention_gradients.local_graphs import LocalGraph, LocalGraphs
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.logit_lens import contrasted_lenses
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


@dataclass(eq=False)
class ClosedForm:
    """Explains some positions of one forward pass, under any attention function.

    Args:
        explained_pass (ModelPass): the pass and its explained positions
        max_positions (int, optional): positions per graph, where layers are replayed.
            Default: 256
        attention_power (float, optional): gradients are multiplied by the attention
            probabilities to this power. If not 0, the probabilities of the explained
            positions are computed again. Default: 0.0
        grad_kwargs (Mapping, optional): further arguments of ``torch.autograd.grad``.
            Default: None
        contrast_ids (Tensor, optional): tokens whose readings are subtracted from the
            targets', each by itself, ``(contrasts, batch, steps of the answer)``; -1
            for none. Default: None
        reuses_projections (bool, optional): see :class:`PostAttentionReplay`.
            Default: False
        replays (bool, optional): see :class:`LocalGraphs`. Default: True
    """

    explained_pass: ModelPass
    max_positions: int = 256
    attention_power: float = 0.0
    grad_kwargs: Mapping[str, Any] | None = None
    contrast_ids: Tensor | None = None
    reuses_projections: bool = False
    replays: bool = True

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> TargetLogits:
        """Runs the pass once; see :class:`AttentionGradients`.

        Raises:
            Inconsistent: the pass is not what it should be.
        """
        explained = self.explained_pass
        positions, first = explained.query_positions, explained.first_step
        contrast_ids = self.contrast_ids
        if contrast_ids is not None:
            contrast_ids = contrast_ids[..., first : first + len(positions)]
        lenses = contrasted_lenses(decoder, explained.target_ids, contrast_ids)
        contraction = Contraction(
            lenses,
            explained.image_keys,
            explained.cross_attention is not None,
            self.attention_power,
            self.grad_kwargs,
            first,
        )
        seen: set[int] = set()

        def explain(graph: LocalGraph) -> None:
            seen.add(graph.layer)
            contraction(graph, explained.num_keys, consume)

        graphs = LocalGraphs(
            decoder,
            layers,
            lambda num_queries: None if len(positions) == num_queries else positions,
            explain,
            explained.cross_attention,
            self.max_positions,
            self.reuses_projections,
            self.replays,
            explained.encoder_keys,
        )
        with graphs.watching():
            target_logits = explained.run()
        if graphs.failure is not None:
            raise graphs.failure
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
        lenses[0].check(graphs.last_hidden, target_logits)
        return target_logits
