"""The separation of words by their weight."""

from itertools import product

import pytest
import torch
from captum_dexar.metrics import token_weight_auroc
from sklearn.metrics import roc_auc_score


def test_by_hand() -> None:
    assert token_weight_auroc([3.0, 2.0, 1.0], [True, True, False]) == 1.0
    assert token_weight_auroc([3.0, 2.0, 1.0], [False, True, True]) == 0.0
    assert token_weight_auroc([0.0, 0.0, 0.0], [False, True, True]) == 0.5
    assert token_weight_auroc([1.0 + 1e-12, 1.0], [True, False]) == 1.0
    # Of six pairs four are won and one is equal.
    weights, has_place = [5, 3, 1, 3, 0], [True, True, True, False, False]
    assert token_weight_auroc(weights, has_place) == pytest.approx(4.5 / 6)


@pytest.mark.parametrize("levels", [3, 1000])
def test_other_implementations(levels: int) -> None:
    """Every pair, and scikit-learn; with many equal weights and with few."""
    generator = torch.Generator().manual_seed(levels)
    weights = torch.randint(levels, (200,), generator=generator) / levels
    has_place = torch.rand(200, generator=generator) < 0.3
    pairs = product(weights[has_place].tolist(), weights[~has_place].tolist())
    wins = [(a > b) + 0.5 * (a == b) for a, b in pairs]
    found = token_weight_auroc(weights, has_place)
    assert found == pytest.approx(sum(wins) / len(wins), rel=1e-12)
    assert found == pytest.approx(roc_auc_score(has_place, weights), rel=1e-12)
    assert token_weight_auroc(1e6 * weights, has_place) == found


def test_chance_is_a_half() -> None:
    generator = torch.Generator().manual_seed(0)
    has_place = torch.arange(30) < 10
    weights = torch.rand(2000, 30, generator=generator)
    scores = torch.tensor([token_weight_auroc(one, has_place) for one in weights])
    assert abs(float(scores.mean()) - 0.5) < 4 * float(scores.std()) / 2000**0.5


def test_what_can_not_be_compared() -> None:
    assert token_weight_auroc([], []) is None
    assert token_weight_auroc([1.0, 2.0], [True, True]) is None
    assert token_weight_auroc([1.0, 2.0], [False, False]) is None
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(1,\)"):
        token_weight_auroc([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="is NaN"):
        token_weight_auroc([1.0, float("nan")], [True, False])
