"""From the gradient of an attention output to the gradients of its probabilities."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from captum_dexar.attention_gradients.gradients import LayerGradients
from captum_dexar.attention_gradients.interception import AttentionFunction
from captum_dexar.attention_gradients.precision import widened
from torch import nn, Tensor

# Text keys are contracted in blocks of this many, which bounds memory for any prompt.
TEXT_BLOCK = 1024


def contract(
    layer: int,
    output_gradient: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    attention: Tensor | None,
    image_keys: Tensor | None,
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
        image_keys (Tensor or None): positions among all keys, ``(batch, image keys)``;
            None where no key is an image token
        num_keys (int): number of all keys, those included that are not held

    Returns:
        LayerGradients
    """
    batch, steps, _, _ = output_gradient.shape
    held_keys = value.shape[2]
    if allowed is None:
        allowed = torch.ones((), dtype=torch.bool, device=value.device)
    allowed = allowed.expand(batch, -1 if allowed.dim() == 4 else 1, steps, held_keys)
    if image_keys is None:
        image_keys = torch.empty(batch, 0, dtype=torch.long, device=value.device)
    held_position = image_keys - (num_keys - held_keys)
    is_held = held_position >= 0
    is_text = torch.ones(batch, held_keys + 1, dtype=torch.bool, device=value.device)
    is_text.scatter_(1, held_position.where(is_held, held_keys), False)
    is_text = is_text[:, :held_keys]

    def gradient_of(keys: Tensor, exists: Tensor) -> Tensor:
        index = keys[:, None, :, None].expand(-1, value.shape[1], -1, value.shape[3])
        block = widened(value.gather(2, index))
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
        return torch.cat(
            [count.expand(*count.shape[:2], n) for count, n in zip(counted, heads)],
            dim=2,
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
    )


def _of_keys(tensor: Tensor, keys: Tensor) -> Tensor:
    """The columns ``keys``, ``(batch, n)``, of ``(batch, heads, steps, keys)``."""
    return tensor.gather(3, keys[:, None, None].expand(-1, *tensor.shape[1:3], -1))


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


def _positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the true entries of each row, and which of them are not filling."""
    counts = mask.sum(1)
    width = int(counts.max())
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    exists = torch.arange(width, device=mask.device) < counts[:, None]
    return order[:, :width], exists
