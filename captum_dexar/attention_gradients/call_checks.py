"""What gradients assume of an attention call, compared with the call."""

import torch
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.model.consistency import are_same, Inconsistent, mismatch
from captum_dexar.model.precision import widened
from torch import Tensor


def check_keys(
    call: AttentionCall,
    num_keys: int,
    own_keys: Tensor,
    allowed: Tensor | None,
    causal: Tensor | None,
) -> None:
    """Raises unless a self-attention reads the prompt and the answer, in order.

    Args:
        call (AttentionCall): the call
        num_keys (int): tokens of the prompt and the answer up to the last query
        own_keys (Tensor): the explained positions' own keys, counted from the last key
            that the call holds: -1 for that, ``(steps,)``
        allowed (Tensor or None): see :meth:`AttentionCall.allowed_keys`
        causal (Tensor or None): see :meth:`AttentionCall.causal_keys`; an attention
            module that chooses keys need not choose a position's own

    Raises:
        Inconsistent: there are more keys, or fewer than a sliding window holds; or a
            position may not attend to what should be its own key, or may to a later
            one that its attention module has chosen.
    """
    held = call.value.shape[2]
    at_least = min(num_keys, call.window or num_keys)
    if not at_least <= held <= num_keys:
        raise Inconsistent(
            f"The attention of decoder layer {call.layer} reads {held} keys, where "
            f"prompt and answer have {num_keys} tokens up to there. Virtual tokens, "
            "or a cache that drops keys or has room for more, would be the reason."
        )
    if causal is not None:
        own = (own_keys + held).to(causal.device)
        rows = causal.expand(*causal.shape[:2], len(own), held)
        index = own[None, None, :, None].expand(*rows.shape[:3], 1)
        if not bool(rows.gather(3, index).all()):
            raise Inconsistent(
                f"In decoder layer {call.layer} a position may not attend to the key "
                "that should be its own, so keys are not in the order of the tokens."
            )
    if allowed is not None and call.layer_mask is not None:
        own = (own_keys + held).to(allowed.device)
        is_later = torch.arange(held, device=own.device) > own[:, None]
        if bool((allowed & is_later).any()):
            raise Inconsistent(
                f"The attention module of decoder layer {call.layer} has chosen keys "
                "that are later than its positions."
            )


def check_cross_keys(call: AttentionCall, image_keys: Tensor) -> None:
    """Raises Inconsistent unless a cross-attention reads every image token."""
    held = call.value.shape[2]
    if image_keys.numel() and held <= int(image_keys.max()):
        raise Inconsistent(
            f"The cross-attention of decoder layer {call.layer} reads {held} keys, but "
            f"image tokens are expected up to key {int(image_keys.max())}."
        )


def check_probabilities(
    call: AttentionCall, probabilities: Tensor, output: Tensor
) -> None:
    """Raises unless probabilities that were computed again give the known output.

    Args:
        call (AttentionCall): the call
        probabilities (Tensor): ``(batch, heads, positions, keys)``
        output (Tensor): what the model's own attention gave there, ``(batch, positions,
            heads, head size)``

    Raises:
        Inconsistent: the output is another one.
    """
    value = widened(call.value)
    batch, heads, positions, keys = probabilities.shape
    grouped = probabilities.reshape(batch, value.shape[1], -1, keys)
    given = (grouped @ value).view(batch, heads, positions, -1).transpose(1, 2)
    # Eager implementations compute them in float32 even of float64.
    dtype = torch.float32 if output.dtype == torch.float64 else output.dtype
    if not are_same([mismatch(given.to(dtype), output.detach().to(dtype))]):
        raise Inconsistent(
            f"Attention probabilities of decoder layer {call.layer}, computed by its "
            "eager implementation, do not give the output of the implementation that "
            'ran. Use attention_power=0, or LayerDexAR(..., engine="autograd").'
        )
