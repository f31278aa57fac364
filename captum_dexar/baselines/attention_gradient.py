"""Attention times its gradient."""

from collections.abc import Callable
from typing import Any

from captum_dexar.attention_gradients import ClosedForm, LayerGradients
from captum_dexar.baselines.baseline import by_layer, LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class LayerAttentionGradient(LayerBaseline):
    r"""Attention x gradient, the baseline of the DEX-AR paper.

    The sum over layers of :math:`relu(\sum_i A_i \, \partial o / \partial A_i)` over
    attention heads :math:`i`, where :math:`o` is the layer's logit-lens output for the
    token. Gradients are computed in closed form, as in DEX-AR.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerDexAR`

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerAttentionGradient
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> method = VLMAttribution(LayerAttentionGradient(model), processor)
        >>> method.attribute(inp, "the image shows a red circle .").token_attr.shape
        torch.Size([7, 144])
    """

    name = "Attention x gradient"

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`."""
        parts: dict[int, list[Tensor]] = {}

        def keep(gradients: LayerGradients) -> None:
            part = gradients.image.sum(2).relu()
            parts.setdefault(gradients.layer, []).append(part)

        def run(engine: ClosedForm) -> TargetLogits:
            return engine(find_decoder(self.model), self.layer_indices, keep)

        try:
            engine = ClosedForm(steps.cheapest_pass(cache), attention_power=1.0)
            target_logits = run(engine)
        except Inconsistent:
            parts.clear()
            engine = ClosedForm(steps.full_pass(), attention_power=1.0, replays=False)
            target_logits = run(engine)
        for _ in parts:
            on_layer()
        stacked, layers = by_layer(parts, self.layer_indices)
        return stacked, target_logits, layers
