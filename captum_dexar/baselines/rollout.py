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

# Rows of a layer's attention that are held at once, which bounds memory.
ROWS_AT_A_TIME = 256


class LayerAttentionRollout(LayerBaseline):
    r"""Attention, followed through the layers.

    Each layer's attention, averaged over heads and with half of the residual stream
    (:math:`\frac12 \bar A + \frac12 I`), is multiplied through the layers; the row of
    the explained position shows where its information would come from if every layer
    only mixed positions. A layer without attention passes each position on as it is.

    More details can be found in the paper: S. Abnar, W. Zuidema, *Quantifying Attention
    Flow in Transformers*, 2020, https://arxiv.org/abs/2005.00928

    The row is propagated from the last layer down, so that no product of two whole
    attention matrices is made. All layers take part: with ``layer=`` some of them, the
    others are skipped.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerDexAR`

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerAttentionRollout
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> method = VLMAttribution(LayerAttentionRollout(model), processor)
        >>> result = method.attribute(inp, target="the image shows a red circle .")
        >>> result.token_attr.shape
        torch.Size([7, 144])
    """

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`.

        The whole rollout counts as the first layer's, where it ends.

        Raises:
            TypeError: the model reads the image by cross-attention.
        """
        if self.adapter.cross_attention is not None:
            raise TypeError(
                f"Attention rollout is not defined for {self.adapter.name}: its image "
                "tokens are read by cross-attention and are no positions of the "
                "sequence that attention is followed through."
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
                # A row that attends to nothing (padding) stays where it is.
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

    @classmethod
    def get_name(cls) -> str:
        """The name for display."""
        return "Attention rollout"
