"""Training with matrix products in bfloat16 on a CPU.

On CPUs torch's fused attention has a slow backward pass in bfloat16: on one with
AVX512-BF16 it took two thirds of a step of the vision stage. Written out as here,
attention took a quarter of that time, and less than the fused one in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, Tensor
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "captum_dexar_bfloat16"
# Added to what may not be attended to; its exponential is 0.
MASKED = -1e4


def bfloat16_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, with its products in bfloat16.

    Args:
        module (nn.Module): the attention layer; not used
        query (Tensor): ``(batch, heads, queries, channels)``
        key (Tensor): ``(batch, heads, keys, channels)``
        value (Tensor): ``(batch, heads, keys, channels)``
        attention_mask (Tensor or None): bool, True where a query may attend to a key,
            broadcast to ``(batch, heads, queries, keys)``
        scaling (float): factor on the queries
        kwargs (Any): not used

    Returns:
        *tuple*: the output, ``(batch, queries, heads, channels)``, and None
    """
    query, key, value = (x.to(torch.bfloat16) for x in (query * scaling, key, value))
    scores = query @ key.transpose(-1, -2)
    if attention_mask is not None:
        bias = torch.where(attention_mask, 0.0, MASKED)
        scores = scores + bias.to(scores.dtype)
    output = scores.softmax(dim=-1) @ value
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def bfloat16_products(model: PreTrainedModel, enabled: bool) -> Iterator[None]:
    """Multiplies the model's matrices in bfloat16; weights and sums stay float32.

    Args:
        model (PreTrainedModel): a model of float32 weights
        enabled (bool): False leaves all as it is
    """
    if not enabled:
        yield
        return
    before = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, bfloat16_attention)
    model.set_attn_implementation(ATTENTION)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    finally:
        model.set_attn_implementation(before)
