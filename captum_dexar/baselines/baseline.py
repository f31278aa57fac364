"""The base class of the baselines."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from captum.log import log_usage
from captum_dexar.attention_gradients import users_change
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.methods.positions_apart import check_positions_are_apart
from captum_dexar.model.hook_effects import noted_effects
from captum_dexar.model.state import check_model_state
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class LayerBaseline(DecoderLayerAttribution):
    """A method with the interface of :class:`LayerDexAR` but no arguments of its own.

    Subclasses compute one attribution per layer, decoding step and image token; the map
    of a step is their sum over layers. They also set ``name``, the display name.
    """

    name: ClassVar[str]

    @classmethod
    def get_name(cls) -> str:
        """The display name."""
        return cls.name

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
                Default: None, the most likely next token
            additional_forward_args (tuple): ``(input_ids, other_model_inputs)``
            normalize (bool, optional): stretches each map to [0, 1]. Default: True
            sum_layers (bool, optional): False returns a list, one map per layer.
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
        on_layer: Callable[[int], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """See :meth:`DecoderLayerAttribution.attribute_steps`."""
        check_model_state(self.model)

        def layer_is_done() -> None:
            if on_layer is not None:
                on_layer(steps.num_steps)

        decoder: Any = self.model
        decoder = decoder.get_decoder()
        change = users_change(decoder, with_hooks=False)
        with noted_effects(decoder) as effects:
            layer_attr, target_logits, layers = self.layer_attributions(
                steps, cache, layer_is_done
            )
        layer_attr = layer_attr.float()
        explained = StepAttributions(
            token_attr=layer_attr.sum(2),
            layer_attr=layer_attr,
            token_log_probs=target_logits.log_probs.float(),
            layer_indices=layers,
        )
        change = change or next(iter(effects), None)
        check_positions_are_apart(steps, explained, change)
        return explained

    @abstractmethod
    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """Attributions ``(batch, steps, layers, image tokens)``, the targets' logits,
        and the indices of the layers."""


def by_layer(
    parts: dict[int, list[Tensor]], chosen: list[int]
) -> tuple[Tensor, list[int]]:
    """Stacks the layers that have attention. Each layer is a list of ``(batch, steps,
    image tokens)`` that are concatenated along the steps."""
    kept = [index for index in chosen if index in parts]
    if not kept:
        raise ValueError(f"None of the layers {chosen} has attention to the image.")
    device = parts[kept[0]][0].device
    whole = [torch.cat(parts[index], dim=1).to(device) for index in kept]
    return torch.stack(whole, dim=2), kept


def image_columns(rows: Tensor, image_keys: Tensor) -> Tensor:
    """The image tokens' columns, ``(batch, ..., keys)`` to ``(..., image tokens)``."""
    keys = image_keys.to(rows.device)
    for _ in range(rows.dim() - 2):
        keys = keys.unsqueeze(1)
    return rows.gather(-1, keys.expand(*rows.shape[:-1], -1))
