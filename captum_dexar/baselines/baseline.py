"""What the baselines have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from captum.log import log_usage
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model_state import check_model_state
from captum_dexar.step_attributions import StepAttributions
from captum_dexar.stepwise import StepwiseLayerAttribution
from torch import Tensor


class LayerBaseline(StepwiseLayerAttribution):
    """A method without arguments of its own, called as :class:`LayerDexAR` is.

    Subclasses compute one attribution a layer, decoding step and image token; the map
    of a step is their sum over layers.
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: int | list[int] | Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        normalize: bool = True,
        sum_layers: bool = True,
    ) -> Tensor | list[Tensor]:
        """Explains one decoding step; see :meth:`LayerDexAR.attribute`.

        Args:

            inputs (Tensor or tuple of Tensor): ``pixel_values``
            target (int, list of int or Tensor, optional): the token to explain.
                Default: None, the model's own most likely next token
            additional_forward_args (tuple): ``(input_ids, other_model_inputs)``
            normalize (bool, optional): stretches each map to [0, 1]. Default: True
            sum_layers (bool, optional): False returns a list, one map a layer.
                Default: True

        Returns:

            *Tensor* or *list of Tensor* of **attributions**, ``(N, 1, h, w)``
        """
        return self.attribute_next_token(
            inputs,
            target,
            additional_forward_args,
            normalize=normalize,
            sum_layers=sum_layers,
        )

    def attribute_steps(
        self,
        steps: DecodingSteps,
        cache: Any = None,
        *,
        on_layer: Callable[[], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """See :meth:`StepwiseLayerAttribution.attribute_steps`."""
        check_model_state(self.model)
        layer_attr, logits, layers = self.layer_attributions(
            steps, cache, on_layer or (lambda: None)
        )
        layer_attr = layer_attr.float()
        log_probs = logits.float().log_softmax(-1)
        target_index = steps.target_ids.to(logits.device)[..., None]
        return StepAttributions(
            token_attr=layer_attr.sum(2),
            token_weights=None,
            head_weights=None,
            layer_attr=layer_attr,
            token_log_probs=log_probs.gather(-1, target_index)[..., 0],
            layer_indices=layers,
        )

    @abstractmethod
    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Attributions of each layer, the explained rows' logits, and the layers.

        Returns:
            ``(batch, steps, layers, image tokens)``, ``(batch, steps, vocabulary)``,
            and indices of the layers
        """


def by_layer(parts: dict[int, Tensor], chosen: list[int]) -> tuple[Tensor, list[int]]:
    """Stacks ``(batch, steps, image tokens)`` of the layers that have attention.

    Raises:
        ValueError: none of the chosen layers has any.
    """
    kept = [index for index in chosen if index in parts]
    if not kept:
        raise ValueError(f"None of the layers {chosen} has attention to the image.")
    device = parts[kept[0]].device
    return torch.stack([parts[index].to(device) for index in kept], dim=2), kept


def image_columns(rows: Tensor, image_keys: Tensor) -> Tensor:
    """The image tokens' columns, ``(batch, ..., keys)`` to ``(..., image tokens)``."""
    keys = image_keys.to(rows.device)
    for _ in range(rows.dim() - 2):
        keys = keys.unsqueeze(1)
    return rows.gather(-1, keys.expand(*rows.shape[:-1], -1))
