r"""Attention gradients without attention matrices.

The attention output of head ``i`` at query ``q`` is
:math:`x_i = \sum_j A_i[q, j] \, v_i[j]`, and nothing else of the layer depends on
``A``. With :math:`c_i = d o / d x_i` the gradient is therefore, exactly and for any
softmax, mask, scaling, soft cap or sink,

.. math:: \frac{d o}{d A_i[q, j]} = \langle v_i[j], c_i \rangle .

``c`` comes from a backward pass through one layer's rear part (output projection,
residual, MLP, norms) at the explained rows. No graph spans two layers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.allowed_keys import allowed_keys
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
from torch import nn, Tensor

# Text keys are contracted in blocks of this many, which bounds memory for any prompt.
TEXT_BLOCK = 1024


@dataclass(eq=False)
class _AttentionCall:
    """One call of the attention function: its output as a leaf, and what it read."""

    output: Tensor
    value: Tensor
    allowed: Tensor | None
    attention: Tensor | None


class ClosedForm:
    """Explains the rows of one forward pass, under any attention function.

    Args:
        explained_pass (ExplainedPass): the pass and its explained rows
        attention_power (float, optional): gradients are multiplied by the attention
            probabilities to this power. Other than 0, the probabilities of the
            explained rows are computed again. Default: 0.0
        grad_kwargs (Mapping, optional): further arguments of ``torch.autograd.grad``.
            Default: None
    """

    def __init__(
        self,
        explained_pass: ExplainedPass,
        attention_power: float = 0.0,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.explained_pass = explained_pass
        self.attention_power = attention_power
        self.grad_kwargs = dict(grad_kwargs or {})
        self._calls: dict[int, list[_AttentionCall]] = {}
        self._last_hidden: Tensor | None = None

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> Tensor:
        """Runs the pass once; see :class:`AttentionGradients`."""
        layer_of = {
            module: index
            for index in layers
            for module in decoder.layers[index].modules()
        }
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
        """Runs the model's own attention and hands its output back as a leaf."""
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
            attention = _attention_rows(
                eager_function, module, query[:, :, rows], key, value, allowed, kwargs
            ).pow(self.attention_power)
        self._calls.setdefault(layer, []).append(
            _AttentionCall(output, value.detach(), allowed, attention)
        )
        # From here to the end of the layer a graph is kept; its hook ends it.
        torch.set_grad_enabled(True)
        return (output, *rest)

    def _layer_gradients(
        self, decoder: Decoder, layer: int, hidden: Tensor, calls: list[_AttentionCall]
    ) -> LayerGradients:
        if len(calls) > 1:
            raise NotImplementedError(
                f"Decoder layer {layer} calls its attention function {len(calls)} "
                "times in one pass. Only layers with one self-attention are supported."
            )
        call = calls[0]
        rows = self._rows(hidden)
        targets = self.explained_pass.target_ids.to(hidden.device)
        with torch.enable_grad():
            reading = decoder.reading(hidden[:, rows], targets).sum()
        (gradient,) = torch.autograd.grad(reading, [call.output], **self.grad_kwargs)
        with torch.no_grad():
            return contract(
                layer,
                gradient[:, rows].float(),
                call.value,
                call.allowed,
                call.attention,
                self.explained_pass.image_keys.to(call.value.device),
                self.explained_pass.num_keys,
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


def contract(
    layer: int,
    output_gradient: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    attention: Tensor | None,
    image_keys: Tensor,
    num_keys: int,
) -> LayerGradients:
    """The inner products of values and output gradients, image and text keys apart.

    Args:
        layer (int): index of the layer
        output_gradient (Tensor): ``(batch, steps, heads, head size)``, float32
        value (Tensor): ``(batch, value heads, keys, head size)``; a layer with a
            sliding window may hold the last keys of the sequence only
        allowed (Tensor or None): broadcastable to ``(batch, heads, steps, keys)``
        attention (Tensor or None): factors of the gradients, ``(batch, heads, steps,
            keys)``
        image_keys (Tensor): positions in the whole sequence, ``(batch, image keys)``
        num_keys (int): length of the whole sequence

    Returns:
        LayerGradients
    """
    batch, steps, _, _ = output_gradient.shape
    held_keys = value.shape[2]
    if allowed is None:
        allowed = torch.ones((), dtype=torch.bool, device=value.device)
    allowed = allowed.expand(batch, -1 if allowed.dim() == 4 else 1, steps, held_keys)
    held_position = image_keys - (num_keys - held_keys)
    is_held = held_position >= 0
    is_text = torch.ones(batch, held_keys + 1, dtype=torch.bool, device=value.device)
    is_text.scatter_(1, held_position.where(is_held, held_keys), False)
    is_text = is_text[:, :held_keys]

    def gradient_of(keys: Tensor, exists: Tensor) -> Tensor:
        index = keys[:, None, :, None].expand(-1, value.shape[1], -1, value.shape[3])
        block = value.gather(2, index).float()
        grouped = output_gradient.unflatten(2, (value.shape[1], -1))
        gradient = torch.einsum("ntgrd,ngkd->ntgrk", grouped, block).flatten(2, 3)
        if attention is not None:
            gradient.mul_(_of_keys(attention, keys).transpose(1, 2))
        may_attend = _of_keys(allowed, keys) & exists[:, None, None]
        return gradient.masked_fill_(~may_attend.transpose(1, 2), 0.0)

    def text_blocks() -> Iterator[Tensor]:
        keys, exists = _positions(is_text)
        for block, block_exists in zip(
            keys.split(TEXT_BLOCK, 1), exists.split(TEXT_BLOCK, 1)
        ):
            yield gradient_of(block, block_exists)

    num_allowed = allowed.sum(-1).transpose(1, 2)
    num_text_keys = (allowed & is_text[:, None, None]).sum(-1).transpose(1, 2)
    return LayerGradients(
        layer=layer,
        image=gradient_of(held_position.clamp(min=0), is_held),
        text_blocks=text_blocks(),
        num_image_keys=num_allowed - num_text_keys,
        num_text_keys=num_text_keys,
    )


def _of_keys(tensor: Tensor, keys: Tensor) -> Tensor:
    """The columns ``keys``, ``(batch, n)``, of ``(batch, heads, steps, keys)``."""
    return tensor.gather(3, keys[:, None, None].expand(-1, *tensor.shape[1:3], -1))


def _attention_rows(
    eager_function: AttentionFunction,
    module: nn.Module,
    query_rows: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    kwargs: Mapping[str, Any],
) -> Tensor:
    """Attention probabilities of some queries, by the model family's own function."""
    mask = None
    if allowed is not None:
        lowest = torch.finfo(query_rows.dtype).min
        mask = torch.zeros_like(allowed, dtype=query_rows.dtype)
        mask.masked_fill_(~allowed, lowest)
    attention = eager_function(module, query_rows, key, value, mask, **kwargs)[1]
    assert isinstance(attention, Tensor)
    return attention.detach().float()


def _positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the true entries of each row, and which of them are not filling."""
    counts = mask.sum(1)
    width = int(counts.max())
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    exists = torch.arange(width, device=mask.device) < counts[:, None]
    return order[:, :width], exists
