"""Equations (4) to (6) of DEX-AR as pure functions on tensors.

They know no model, hook or tokenizer: gradients of a logit with respect to attention
probabilities go in; scores, weights and maps come out.

Axis names: ``steps`` are decoding steps, ``heads`` attention heads, ``keys`` the keys
of one kind (image or text) and ``tokens`` the image tokens of the patch grid. Leading
axes written ``...`` are free and never mixed, so that a batch equals its examples.

All results are float64 where the device supports it and float32 elsewhere: products of
two gradients exceed the range of half precision, and squares of huge ones that of
float32.

Reference: W. Bousselham et al., *DEX-AR: A Dynamic Explainability Method for
Autoregressive Vision-Language Models*, https://arxiv.org/abs/2603.06302
"""

from collections.abc import Iterable

import torch
from captum_dexar.compatibility import warn_user
from captum_dexar.maps.normalization import (
    min_max_normalize,
    scale_signed,
    widened_for_sums,
)
from torch import Tensor


def head_scores(
    gradient_blocks: Iterable[Tensor] | Tensor,
    num_keys: Tensor | None = None,
    top_k: int = 1,
) -> Tensor:
    r"""The score of each head for one kind of key, :math:`S` in equation (4).

    The mean of the ``top_k`` largest values of ``relu(gradient)``; their maximum for
    ``top_k=1``, the paper's best setting.

    Args:
        gradient_blocks (Tensor or iterable of Tensor): gradients of the logit with
            respect to the attention probabilities, ``(..., heads, keys)``; the keys
            may come in several blocks. Keys that a query may not attend to are zero.
        num_keys (Tensor, optional): how many keys the query may attend to,
            broadcastable to ``(..., heads)``. With fewer than ``top_k`` of them, the
            mean is taken over what there is. Default: all keys given.
        top_k (int, optional): how many keys count. Default: 1

    Returns:
        *Tensor* of **scores**, ``(..., heads)``, never negative; zero where there is
        no key.

    Raises:
        ValueError: ``top_k`` is smaller than 1, or there is no block.

    Example::

        >>> head_scores(torch.tensor([[0.5, -2.0, 1.5]]))
        tensor([1.5000], dtype=torch.float64)
    """
    if top_k < 1:
        raise ValueError(f"top_k must be a positive number of keys, got {top_k}.")
    blocks = (
        [gradient_blocks] if isinstance(gradient_blocks, Tensor) else gradient_blocks
    )
    largest: Tensor | None = None
    seen_keys = 0
    for block in blocks:
        seen_keys += block.shape[-1]
        best = _largest(block, min(top_k, block.shape[-1]))
        if largest is not None:
            merged = torch.cat([largest, best], dim=-1)
            best = _largest(merged, min(top_k, merged.shape[-1]))
        largest = best
    if largest is None:
        raise ValueError("head_scores needs at least one block of gradients, got none.")
    total = widened_for_sums(largest.relu()).sum(-1)
    if num_keys is None:
        return total / max(1, min(top_k, seen_keys))
    return total / num_keys.to(total.device).clamp(min=1, max=top_k)


def _largest(block: Tensor, k: int) -> Tensor:
    """The ``k`` largest values of each row; a maximum is faster than a top 1."""
    if k == 1:
        return block.amax(dim=-1, keepdim=True)
    return block.topk(k, dim=-1).values


def head_weights(
    image_scores: Tensor, text_scores: Tensor, head_filter: bool = True
) -> Tensor:
    r"""The dynamic head filter of equation (5), :math:`w = relu(S_{img} - S_{text})`.

    Args:
        image_scores (Tensor): ``(..., heads)``
        text_scores (Tensor): ``(..., heads)``
        head_filter (bool, optional): False weights every head with one.
            Default: True

    Returns:
        *Tensor* of **weights**, ``(..., heads)``, never negative.
    """
    if not head_filter:
        return torch.ones_like(widened_for_sums(image_scores))
    return (widened_for_sums(image_scores) - widened_for_sums(text_scores)).relu()


def token_map(image_gradients: Tensor, weights: Tensor) -> Tensor:
    r"""One layer's term of equation (5), :math:`\sum_i w_i \, relu(G_i)`.

    The map of a token is the sum of this over its layers.

    Args:
        image_gradients (Tensor): ``(..., heads, tokens)``
        weights (Tensor): head weights, ``(..., heads)``

    Returns:
        *Tensor* of **maps**, ``(..., tokens)``, un-normalised.
    """
    positive = image_gradients.relu()
    if positive.dtype not in (torch.float32, torch.float64):
        positive = positive.float()
    # Weights relative to the largest: sums of float32 then have the gradients' range.
    weights = widened_for_sums(weights)
    largest = weights.amax(dim=-1, keepdim=True)
    shares = weights / largest.masked_fill(largest <= 0, 1.0)
    summed = torch.einsum("...hj,...h->...j", positive, shares.to(positive.dtype))
    return widened_for_sums(summed) * largest


def token_weights(image_scores: Tensor, text_scores: Tensor) -> Tensor:
    r"""The weight of each token, :math:`\delta^t` in equation (6).

    .. math:: \delta^t = relu(\max_{l,i} S_{img} - \max_{l,i} S_{text})

    Args:
        image_scores (Tensor): ``(..., layers, heads)``; NaN, which is ignored, where a
            layer has fewer heads than another.
        text_scores (Tensor): ``(..., layers, heads)``

    Returns:
        *Tensor* of **weights**, ``(...)``, never negative. Zero means that no image
        token would raise this token's logit more than some text token.
    """
    best_image = widened_for_sums(image_scores).nan_to_num(nan=0.0).amax(dim=(-2, -1))
    best_text = widened_for_sums(text_scores).nan_to_num(nan=0.0).amax(dim=(-2, -1))
    return (best_image - best_text).relu()


def image_share(excess: Tensor, both: Tensor) -> Tensor:
    r"""The share of head scores by which the image exceeds the text.

    .. math::

        \frac{\sum_{l,i} relu(S_{img} - S_{text})}
        {\sum_{l,i} S_{img} + S_{text}}

    The weight of a token among its rivals. Unlike equation (6), which compares the
    largest scores of all layers, it does not depend on a token's scale.

    Args:
        excess (Tensor): the sum of the numerator, ``(...)``
        both (Tensor): that of the denominator, ``(...)``

    Returns:
        *Tensor* of **weights**, ``(...)``, from 0 to 1; 0 where no key counts.

    Example::

        >>> image_share(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    return excess / both.masked_fill(both <= 0, 1.0)


def sequence_attribution(
    token_attr: Tensor,
    weights: Tensor,
    normalize: bool = True,
    is_part: bool = False,
) -> Tensor:
    r"""The map of a whole answer before its last normalisation, equation (6).

    Args:
        token_attr (Tensor): un-normalised token maps, ``(..., steps, tokens)``
        weights (Tensor): token weights, ``(..., steps)``
        normalize (bool, optional): True sums each token's own min-max normalised map,
            which is the paper's equation; False sums the un-normalised maps, as the
            method's first public release does. Default: True
        is_part (bool, optional): True if the tokens are not the whole answer, of which
            a map that is zero says nothing: there is no warning. Default: False

    The paper's maps are never negative. Of an answer with negative attributions each
    token's map is scaled to [-1, 1] instead (:func:`scale_signed`): signs are kept.

    Returns:
        *Tensor* of **attributions**, ``(..., tokens)``. All zero, with a warning, when
        no token has both a positive weight and a map that is not constant.
    """
    maps = widened_for_sums(token_attr)
    if normalize:
        is_signed = (maps < 0).flatten(-2).any(-1)[..., None, None]
        maps = torch.where(is_signed, scale_signed(maps), min_max_normalize(maps))
    total = torch.einsum("...tj,...t->...j", maps, widened_for_sums(weights))
    if not is_part and total.numel() and not bool(total.any()):
        warn_user(
            "The map of the whole answer is zero: no token has both a positive weight "
            f"and a map that is not constant ({int((weights > 0).sum())} of "
            f"{weights.numel()} token weights are positive). Nothing in the image "
            "supported this answer more than its text did."
        )
    return total
