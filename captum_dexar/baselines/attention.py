"""Attention itself, as a map."""

from collections.abc import Callable
from typing import Any

from captum_dexar.attention_gradients.attention_reader import (
    AttentionCall,
    read_attention,
)
from captum_dexar.baselines.baseline import by_layer, image_columns, LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class LayerAttention(LayerBaseline):
    r"""How much the explained position attends to each image token.

    The mean over the heads of a layer, and over the chosen layers: give ``layer=`` the
    last one for raw attention, or none for the mean of all. What is read is not what
    matters: attention does not know the token that is explained, so that all tokens of
    the vocabulary share one map at a step.

    Args:

        forward_func, layer, device_ids: as in :class:`LayerDexAR`

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerAttention
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> result = VLMAttribution(LayerAttention(model), processor).attribute(inp)
        >>> result.token_maps.shape[1:]
        torch.Size([12, 12])
    """

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`."""
        explained_pass = steps.cheapest_pass(cache)
        parts: dict[int, list[Tensor]] = {}

        def keep(call: AttentionCall) -> None:
            if call.reads_image:
                rows = call.rows(explained_pass.query_positions).mean(1)
                parts[call.layer] = [image_columns(rows, explained_pass.image_keys)]
                on_layer()

        target_logits = read_attention(
            explained_pass, find_decoder(self.model), self.layer_indices, keep
        )
        stacked, layers = by_layer(parts, self.layer_indices)
        return stacked / len(layers), target_logits, layers

    @classmethod
    def get_name(cls) -> str:
        """The name for humans."""
        return "Attention"
