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
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.allowed_keys import allowed_keys
from captum_dexar.attention_gradients.contraction import (
    attention_rows,
    contract,
    joined_heads,
)
from captum_dexar.attention_gradients.decoder import Decoder, hidden_of
from captum_dexar.attention_gradients.gradients import (
    Consumer,
    ExplainedPass,
    LayerGradients,
)
from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from captum_dexar.attention_gradients.precision import widened
from torch import nn, Tensor


@dataclass(eq=False)
class _AttentionCall:
    """One call of the attention function: its output as a leaf, and what it read."""

    output: Tensor
    value: Tensor
    allowed: Tensor | None
    attention: Tensor | None
    reads_image: bool
    num_keys: int


class ClosedForm:
    """Explains the rows of one forward pass, under any attention function.

    Args:
        explained_pass (ExplainedPass): the pass and its explained rows
        attention_power (float, optional): gradients are multiplied by the attention
            probabilities to this power. Other than 0, the probabilities of the
            explained rows are computed again. Default: 0.0
        grad_kwargs (Mapping, optional): further arguments of ``torch.autograd.grad``.
            Default: None
        contrast_ids (Tensor, optional): tokens whose readings are subtracted from the
            targets', ``(batch, steps)``; -1 for none. Default: None
    """

    def __init__(
        self,
        explained_pass: ExplainedPass,
        attention_power: float = 0.0,
        grad_kwargs: Mapping[str, Any] | None = None,
        contrast_ids: Tensor | None = None,
    ) -> None:
        self.explained_pass = explained_pass
        self.attention_power = attention_power
        self.grad_kwargs = dict(grad_kwargs or {})
        self.contrast_ids = contrast_ids
        self._calls: dict[int, list[_AttentionCall]] = {}
        self._cross_attention: set[nn.Module] = set()
        self._last_hidden: Tensor | None = None

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> Tensor:
        """Runs the pass once; see :class:`AttentionGradients`."""
        layer_of: dict[nn.Module, int] = {}
        for index in layers:
            for name, module in decoder.layers[index].named_modules():
                layer_of[module] = index
                if name == self.explained_pass.cross_attention:
                    self._cross_attention.update(module.modules())
        seen_layers: list[int] = []

        def finish_layer(index: int, output: Any) -> Any:
            hidden = hidden_of(output)
            calls = self._calls.pop(index, [])
            if index == len(decoder.layers) - 1:
                self._last_hidden = hidden.detach()[:, self._rows(hidden)]
            if calls:
                seen_layers.append(index)
                consume(self._layer_gradients(decoder, index, hidden, calls))
            torch.set_grad_enabled(False)
            return _detached(output)

        hooked = sorted({*layers, len(decoder.layers) - 1})
        handles = [
            decoder.layers[index].register_forward_hook(
                lambda module, args, output, index=index: finish_layer(index, output)
            )
            for index in hooked
        ]
        try:
            with torch.no_grad(), intercepted_attention(layer_of, self._tap):
                logits = self.explained_pass.run()
                self._check(decoder, seen_layers, logits)
        finally:
            for handle in handles:
                handle.remove()
            self._calls.clear()
            self._cross_attention.clear()
            self._last_hidden = None
        return logits

    def _rows(self, hidden: Tensor) -> Tensor:
        return self.explained_pass.rows.to(hidden.device)

    def _tap(
        self,
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
    ) -> tuple[Tensor, Any]:
        """Runs the model's own attention and hands its output back as a leaf.

        A later call of the same layer (cross-attention) keeps its graph: it depends on
        the first by its query.
        """
        output, *rest = attention_function(
            module, query, key, value, attention_mask, *args, **kwargs
        )
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        rows = self.explained_pass.rows.to(query.device)
        allowed = allowed_keys(
            attention_mask,
            num_queries=query.shape[2],
            num_keys=key.shape[2],
            rows=rows,
            masked_by_kernel=attention_function is not eager_function,
            module=module,
            kwargs=kwargs,
        )
        attention = None
        if self.attention_power:
            attention = attention_rows(
                eager_function, module, query[:, :, rows], key, value, allowed, kwargs
            ).pow(self.attention_power)
        is_cross = module in self._cross_attention
        self._calls.setdefault(layer, []).append(
            _AttentionCall(
                output,
                value.detach(),
                allowed,
                attention,
                reads_image=is_cross or self.explained_pass.cross_attention is None,
                num_keys=key.shape[2] if is_cross else self.explained_pass.num_keys,
            )
        )
        # From here to the end of the layer a graph is kept; its hook ends it.
        torch.set_grad_enabled(True)
        return (output, *rest)

    def _layer_gradients(
        self, decoder: Decoder, layer: int, hidden: Tensor, calls: list[_AttentionCall]
    ) -> LayerGradients:
        rows = self._rows(hidden)
        targets = self.explained_pass.target_ids.to(hidden.device)
        with torch.enable_grad():
            reading = decoder.contrasted_reading(
                hidden[:, rows], targets, self.contrast_ids
            ).sum()
        gradients = torch.autograd.grad(
            reading, [call.output for call in calls], **self.grad_kwargs
        )
        image_keys = self.explained_pass.image_keys
        with torch.no_grad():
            return joined_heads(
                [
                    contract(
                        layer,
                        widened(gradient[:, rows]),
                        call.value,
                        call.allowed,
                        call.attention,
                        image_keys.to(call.value.device) if call.reads_image else None,
                        call.num_keys,
                    )
                    for call, gradient in zip(calls, gradients)
                ],
                num_image_keys=image_keys.shape[1],
            )

    def _check(self, decoder: Decoder, seen_layers: list[int], logits: Tensor) -> None:
        if not seen_layers:
            raise RuntimeError(
                "None of the explained layers called its attention function through "
                "the attention interface of transformers, so that there is nothing to "
                'explain. Use LayerDexAR(..., engine="autograd") for such a model.'
            )
        if self._last_hidden is None:
            raise RuntimeError(
                "The last decoder layer did not run in the forward pass."
            )
        decoder.check(self._last_hidden, self.explained_pass.target_ids, logits)


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(item) for item in output)
    return output.detach() if isinstance(output, Tensor) else output
