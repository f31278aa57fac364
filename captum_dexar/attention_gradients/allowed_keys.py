"""Which keys a query may attend to, read off the mask an attention call received."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask


def allowed_keys(
    attention_mask: Any,
    *,
    num_queries: int,
    num_keys: int,
    rows: Tensor,
    masked_by_kernel: bool,
    module: torch.nn.Module,
    kwargs: Mapping[str, Any],
) -> Tensor | None:
    """The keys that the queries ``rows`` may attend to.

    The gradient of a logit with respect to an attention probability is ``<value, c>``
    whether or not the key may be attended to; a key that may not is neither image nor
    text for that query, so that its gradient has to be set to zero by this mask.

    Args:
        attention_mask (Tensor, BlockMask or None): the mask as the attention function
            received it: boolean (True: may attend) or additive, ``(batch, heads or 1,
            queries, keys)``; FlashAttention's padding mask ``(batch, keys)``; a block
            mask; or None.
        num_queries (int): queries of the call.
        num_keys (int): keys of the call.
        rows (Tensor): indices of the explained queries, ``(rows,)``
        masked_by_kernel (bool): whether the attention function masks on its own what
            its mask argument leaves open (causality and sliding window); False for
            eager functions, whose missing mask means that every key is allowed.
        module (torch.nn.Module): the attention module
        kwargs (Mapping): further keyword arguments of the attention call

    Returns:
        Boolean *Tensor*, broadcastable to ``(batch, heads, rows, keys)``, or None if
        every key is allowed.

    Raises:
        TypeError: the mask is of a kind that is not known here.
    """
    if isinstance(attention_mask, BlockMask):
        return _block_mask_rows(attention_mask, num_queries, num_keys, rows)
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        raise TypeError(
            "The attention mask must be a tensor, a BlockMask or None, got "
            f"{type(attention_mask).__name__}. Use another attn_implementation, or "
            'LayerDexAR(..., engine="autograd").'
        )
    if attention_mask is not None and attention_mask.dim() == 4:
        mask_rows = attention_mask[:, :, rows if attention_mask.shape[2] > 1 else [0]]
        mask_rows = mask_rows[..., :num_keys]
        if mask_rows.dtype == torch.bool:
            return mask_rows
        return mask_rows > torch.finfo(mask_rows.dtype).min / 2
    if not masked_by_kernel:
        return None
    allowed = _causal_rows(num_queries, num_keys, rows, module, kwargs)
    if attention_mask is not None:
        padding = attention_mask[:, None, None, -num_keys:].bool()
        allowed = padding if allowed is None else padding & allowed
    return allowed


def _causal_rows(
    num_queries: int,
    num_keys: int,
    rows: Tensor,
    module: torch.nn.Module,
    kwargs: Mapping[str, Any],
) -> Tensor | None:
    """Causal mask aligned to the lower right corner, within the sliding window."""
    is_causal = kwargs.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if not is_causal:
        return None
    query = (rows + num_keys - num_queries)[:, None]
    key = torch.arange(num_keys, device=rows.device)
    allowed = key <= query
    window = kwargs.get("sliding_window")
    if window is not None and window > 0:
        allowed &= key > query - window
    return None if bool(allowed.all()) else allowed[None, None]


def _block_mask_rows(
    block_mask: BlockMask, num_queries: int, num_keys: int, rows: Tensor
) -> Tensor:
    """Evaluates the rule of a block mask for some queries, one example at a time."""
    key = torch.arange(num_keys, device=rows.device)
    batch = [
        torch.stack(
            [
                block_mask.mask_mod(
                    torch.tensor(example, device=rows.device),
                    torch.tensor(0, device=rows.device),
                    row,
                    key,
                ).expand(num_keys)
                for row in rows
            ]
        )
        for example in range(block_mask.kv_num_blocks.shape[0])
    ]
    return torch.stack(batch)[:, None]
