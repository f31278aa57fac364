"""Whether token weights tell words with a place in the image from others."""

from collections.abc import Sequence

import torch
from torch import Tensor


def token_weight_auroc(
    weights: Tensor | Sequence[float], has_place: Tensor | Sequence[bool]
) -> float | None:
    """How well weights separate words with a place in the image from the others.

    The area under the ROC curve: the probability that a word with a place has a larger
    weight than one without, where equal weights count half. It is the statistic of
    Mann and Whitney over the number of pairs. Higher is better; chance is 0.5, whatever
    the numbers of words, and so is a constant weight.

    Args:
        weights (Tensor or sequence of float): a weight per word, ``(words,)``; see
            ``VLMAttributionResult.token_weights``
        has_place (Tensor or sequence of bool): whether the word refers to a place in
            the image, ``(words,)``

    Returns:
        float in [0, 1]; None if there are no words of either sort

    Raises:
        ValueError: the numbers of weights and flags differ, or a weight is NaN.

    Examples::

        >>> from captum_dexar.metrics import token_weight_auroc
        >>> token_weight_auroc([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
        0.875
    """
    values = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    is_placed = torch.as_tensor(has_place, dtype=torch.bool).cpu()
    if values.dim() != 1 or values.shape != is_placed.shape:
        raise ValueError(
            "Expected one weight and one flag per word, got shapes "
            f"{tuple(values.shape)} and {tuple(is_placed.shape)}."
        )
    if bool(values.isnan().any()):
        raise ValueError("A token weight is NaN.")
    placed, others = values[is_placed], values[~is_placed].sort().values
    if not len(placed) or not len(others):
        return None
    # For each word with a place: how many others have a smaller weight, or no larger.
    smaller = torch.searchsorted(others, placed, right=False)
    no_larger = torch.searchsorted(others, placed, right=True)
    wins = (smaller + no_larger).sum().double() / 2
    return float(wins / (len(placed) * len(others)))
