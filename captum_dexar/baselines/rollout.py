"""Attention rollout."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.attention_gradients import AttentionCall
from captum_dexar.baselines.attention import probabilities, read_attention
from captum_dexar.baselines.baseline import image_columns, LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor

# Number of attention rows per chunk, to limit memory.
ROWS_AT_A_TIME = 256


class LayerAttentionRollout(LayerBaseline):
    r"""Attention multiplied through the layers.

    Each layer's attention, averaged over heads and combined with the residual stream
    (:math:`\frac12 \bar A + \frac12 I`), is multiplied through the layers. The row of
    the explained position shows where its information would come from if layers only
    mixed positions. Layers without attention count as the identity.

    More details can be found in the paper: S. Abnar, W. Zuidema, *Quantifying Attention
    Flow in Transformers*, 2020, https://arxiv.org/abs/2005.00928

    Only this row is propagated, from the last layer down, so whole attention matrices
    are never multiplied. Layers not in ``layer=`` are skipped.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerDexAR`

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerAttentionRollout
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> method = VLMAttribution(LayerAttentionRollout(model), processor)
        >>> method.attribute(inp, "the image shows a red circle .").token_attr.shape
        torch.Size([7, 144])
    """

    name = "Attention rollout"

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`.

        The whole rollout is assigned to the first layer, where it ends.

        Raises:
            TypeError: the model reads the image by cross-attention.
        """
        if self.adapter.cross_attention is not None or steps.prompt.encoder_keys:
            raise TypeError(
                f"Attention rollout is not defined for {self.adapter.name}: its image "
                "tokens are read by cross-attention and are not positions of the "
                "decoder's sequence."
            )
        explained_pass = steps.full_pass()
        calls: list[AttentionCall] = []
        target_logits = read_attention(
            explained_pass, find_decoder(self.model), self.layer_indices, calls.append
        )
        batch, num_steps = explained_pass.target_ids.shape
        num_keys = explained_pass.num_keys
        positions = torch.arange(num_keys, device=target_logits.logits.device)
        is_explained = (
            positions == explained_pass.query_positions.to(positions.device)[:, None]
        )
        relevance = is_explained.float().expand(batch, num_steps, num_keys)
        for call in reversed(calls):
            mixed = torch.zeros_like(relevance)
            for block in positions.split(ROWS_AT_A_TIME):
                rows = probabilities(call, explained_pass, block).mean(1).to(relevance)
                # Rows of padding attend to nothing; avoid dividing by zero.
                total = rows.sum(-1, keepdim=True)
                rows = rows / total.where(total > 0, 1.0)
                mixed += relevance[..., block] @ rows
            relevance = 0.5 * mixed + 0.5 * relevance
            on_layer()
        attributions = image_columns(relevance, explained_pass.image_keys)
        return (
            attributions[:, :, None],
            target_logits,
            [min(call.layer for call in calls)],
        )
