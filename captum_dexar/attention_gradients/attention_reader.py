"""Reading attention probabilities of some queries, under any attention function.

Fused kernels never make them, and ``output_attentions`` is empty under them. They are
computed again for the wanted rows only, by the model family's own eager function, so
that scaling, soft caps and sinks are right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.allowed_keys import allowed_keys
from captum_dexar.attention_gradients.contraction import attention_rows
from captum_dexar.attention_gradients.gradients import ExplainedPass
from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from captum_dexar.model.decoder import Decoder, modules_of_layers
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor


@dataclass(eq=False)
class AttentionCall:
    """One call of a layer's attention, whose rows can be read.

    Attributes:
        layer (int): index of the decoder layer
        reads_image (bool): whether image tokens are among its keys
        num_keys (int): keys of the whole sequence
    """

    layer: int
    reads_image: bool
    num_keys: int
    _eager: AttentionFunction
    _masked_by_kernel: bool
    _module: nn.Module
    _query: Tensor
    _key: Tensor
    _value: Tensor
    _mask: Any
    _kwargs: dict[str, Any]

    def rows(self, rows: Tensor) -> Tensor:
        """Probabilities of some queries of the pass.

        Args:
            rows (Tensor): their indices, ``(rows,)``

        Returns:
            *Tensor* ``(batch, heads, rows, num_keys)``, float32 at least; zero for keys
            that a sliding layer no longer holds.
        """
        rows = rows.to(self._query.device)
        allowed = allowed_keys(
            self._mask,
            num_queries=self._query.shape[2],
            num_keys=self._key.shape[2],
            rows=rows,
            masked_by_kernel=self._masked_by_kernel,
            module=self._module,
            kwargs=self._kwargs,
        )
        attention = attention_rows(
            self._eager,
            self._module,
            self._query[:, :, rows],
            self._key,
            self._value,
            allowed,
            self._kwargs,
        )
        if allowed is not None:
            attention = attention * allowed
        missing = self.num_keys - attention.shape[-1]
        return nn.functional.pad(attention, (missing, 0))


def read_attention(
    explained_pass: ExplainedPass,
    decoder: Decoder,
    layers: list[int],
    consume: Callable[[AttentionCall], None],
) -> TargetLogits:
    """Runs a pass and shows every attention call of the chosen layers.

    Args:
        explained_pass (ExplainedPass): the pass
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the layers
        consume (Callable): called with each AttentionCall, in the model's order

    Returns:
        What the model says of the targets.
    """
    layer_of, cross_attention = modules_of_layers(
        decoder, layers, explained_pass.cross_attention
    )

    def tap(
        layer: int,
        attention_function: AttentionFunction,
        eager_function: AttentionFunction,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        is_cross = module in cross_attention
        consume(
            AttentionCall(
                layer=layer,
                reads_image=is_cross or explained_pass.cross_attention is None,
                num_keys=key.shape[2] if is_cross else explained_pass.num_keys,
                _eager=eager_function,
                _masked_by_kernel=attention_function is not eager_function,
                _module=module,
                _query=query,
                _key=key,
                _value=value,
                _mask=attention_mask,
                _kwargs=kwargs,
            )
        )
        return attention_function(
            module, query, key, value, attention_mask, *args, **kwargs
        )

    with torch.no_grad(), intercepted_attention(layer_of, tap):
        return explained_pass.run()
