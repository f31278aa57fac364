"""From the gradient of an attention output to the gradients of its probabilities."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from captum_dexar.attention_gradients.gradients import LayerGradients
from captum_dexar.attention_gradients.interception import AttentionFunction
from captum_dexar.attention_gradients.key_blocks import KeyBlock, KeyBlocks
from captum_dexar.model.precision import widened
from torch import nn, Tensor


def contract(
    layer: int,
    output_gradient: Tensor,
    value: Tensor,
    keys: KeyBlocks,
    attention: Tensor | None,
    steps: slice,
) -> LayerGradients:
    """The inner products of values and output gradients, image and text keys apart.

    Values are read block by block where they lie and widened there, so that no copy of
    a whole cache is made.

    Args:
        layer (int): index of the layer
        output_gradient (Tensor): ``(batch, steps, heads, head size)``, float32
        value (Tensor): ``(batch, value heads, keys, head size)``; a layer with a
            sliding window may hold the last keys of the sequence only
        keys (KeyBlocks): its image and text keys
        attention (Tensor or None): factors of the gradients, ``(batch, heads, steps,
            keys)``
        steps (slice): which steps of the answer these are

    Returns:
        LayerGradients
    """
    batch, num_steps, heads, size = output_gradient.shape
    value_heads = value.shape[1]
    # The heads that share a value stand beside each other: (batch, value heads, heads
    # of a group x steps, head size).
    by_head = output_gradient.transpose(1, 2)
    grouped = by_head.reshape(batch, value_heads, -1, size)

    def gradient_of(block: KeyBlock) -> Tensor:
        values = widened(block.of(value, 2))
        product = grouped @ values.transpose(2, 3)
        gradient = product.view(batch, heads, num_steps, -1)
        if attention is not None:
            gradient.mul_(block.of(attention, 3))
        if block.hidden is not None:
            gradient.masked_fill_(block.hidden, 0.0)
        return gradient.transpose(1, 2)

    if keys.image is None:
        image = output_gradient.new_zeros(batch, num_steps, heads, 0)
    else:
        image = gradient_of(keys.image)
    return LayerGradients(
        layer=layer,
        image=image,
        text_blocks=(gradient_of(block) for block in keys.text),
        num_image_keys=keys.num_image_keys,
        num_text_keys=keys.num_text_keys,
        steps=steps,
    )


def joined_heads(calls: list[LayerGradients], num_image_keys: int) -> LayerGradients:
    """The heads of all attention calls of a layer as heads of that layer.

    A head of a self-attention beside a cross-attention has no image keys: their
    gradients are zero, as are those of another call's text keys.

    Args:
        calls (list of LayerGradients): in the order of the calls
        num_image_keys (int): image tokens of the prompt
    """
    if len(calls) == 1 and calls[0].image.shape[-1] == num_image_keys:
        return calls[0]
    heads = [call.image.shape[2] for call in calls]

    def of_all_heads(tensor: Tensor, call: int) -> Tensor:
        before, after = sum(heads[:call]), sum(heads[call + 1 :])
        return nn.functional.pad(tensor, (0, 0, before, after))

    def text_blocks() -> Iterator[Tensor]:
        for index, call in enumerate(calls):
            for block in call.text_blocks:
                yield of_all_heads(block, index)

    def counts(name: str) -> Tensor:
        counted = [getattr(call, name) for call in calls]
        batch = max(count.shape[0] for count in counted)
        return torch.cat(
            [count.expand(batch, -1, n) for count, n in zip(counted, heads)], dim=2
        )

    images = [
        nn.functional.pad(call.image, (0, num_image_keys - call.image.shape[-1]))
        for call in calls
    ]
    return LayerGradients(
        layer=calls[0].layer,
        image=torch.cat(images, dim=2),
        text_blocks=text_blocks(),
        num_image_keys=counts("num_image_keys"),
        num_text_keys=counts("num_text_keys"),
        steps=calls[0].steps,
    )


def attention_rows(
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
    return widened(attention.detach())
