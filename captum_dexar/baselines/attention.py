"""Attention weights as a map."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.attention_gradients import (
    AttentionCall,
    encoder_first,
    intercepted_attention,
)
from captum_dexar.baselines.baseline import by_layer, image_columns, LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.model.decoder import Decoder, find_decoder
from captum_dexar.model.layers import modules_of_layers
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor


class LayerAttention(LayerBaseline):
    r"""How much the explained position attends to each image token.

    The mean over attention heads and over the chosen layers: pass the last layer as
    ``layer=`` for raw attention, or None for the mean over all. Attention does not
    depend on the explained token, only on the decoding step.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerDexAR`

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerAttention
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> result = VLMAttribution(LayerAttention(model), processor).attribute(inp)
        >>> result.token_maps.shape[1:]
        torch.Size([12, 12])
    """

    name = "Attention"

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`."""
        explained_pass = steps.cheapest_pass(cache)
        positions = explained_pass.query_positions
        parts: dict[int, list[Tensor]] = {}

        def keep(call: AttentionCall) -> None:
            attention = probabilities(call, explained_pass, positions).mean(1)
            parts[call.layer] = [image_columns(attention, explained_pass.image_keys)]
            on_layer()

        target_logits = read_attention(
            explained_pass, find_decoder(self.model), self.layer_indices, keep
        )
        stacked, layers = by_layer(parts, self.layer_indices)
        return stacked / len(layers), target_logits, layers


def read_attention(
    explained_pass: ModelPass,
    decoder: Decoder,
    layers: list[int],
    consume: Callable[[AttentionCall], None],
) -> TargetLogits:
    """Runs a pass, calls ``consume`` for every attention call that reads the image, and
    returns the targets' logits."""
    layer_of, cross_attention = modules_of_layers(
        decoder.layers, layers, explained_pass.cross_attention
    )

    def tap(call: AttentionCall) -> Any:
        if call.is_cross or explained_pass.cross_attention is None:
            consume(encoder_first(call, explained_pass.encoder_keys))
        return call.run()

    intercepted = intercepted_attention(layer_of, tap, cross_attention)
    with torch.no_grad(), intercepted:
        return explained_pass.run()


def probabilities(
    call: AttentionCall, explained_pass: ModelPass, query_positions: Tensor
) -> Tensor:
    """Attention probabilities over all keys, ``(batch, heads, positions, keys)``; zero
    for keys outside a sliding window."""
    attention = call.probabilities(query_positions)
    if call.is_cross:
        return attention
    missing = explained_pass.num_keys - attention.shape[-1]
    return nn.functional.pad(attention, (missing, 0))
