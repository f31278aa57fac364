"""What chance scores: theory against maps that know nothing."""

import pytest
import torch
from captum_dexar.metrics import (
    best_iou,
    energy_pointing_game,
    localization_chance,
    pointing_game,
    signal_to_noise,
    soft_iou,
)
from torch import Tensor

SHARES = {"soft_iou", "best_iou", "energy_pointing_game"}


def _mask(height: int = 12, width: int = 20) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[3:6, 4:9] = True
    mask[9, 15] = True
    return mask


def _nearly_uniform(height: int, width: int) -> Tensor:
    """Ones, but for the corner that makes it a map with contrast."""
    heat = torch.ones(height, width)
    heat[0, 0] = 0.0
    return heat


def test_a_map_of_ones_scores_the_share_of_the_object() -> None:
    mask = _mask(300, 400)
    mask[100:250, 120:300] = True
    chance, heat = localization_chance(mask), _nearly_uniform(300, 400)
    for measure in (soft_iou, best_iou, energy_pointing_game):
        expected = chance[measure.__name__]
        assert expected == float(mask.double().mean())
        assert measure(heat, mask) == pytest.approx(expected, rel=2e-5)
    assert chance["pointing_game"] == float(mask.double().mean())
    assert chance["signal_to_noise"] == 0.0
    assert signal_to_noise(heat, mask) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("tolerance", [0.0, 0.9, 1.0, 1.5, 4.0, 30.0])
def test_pointing_at_every_pixel_once(tolerance: float) -> None:
    mask = _mask()
    hits = 0
    for place in range(mask.numel()):
        heat = torch.zeros(mask.numel())
        heat[place] = 1.0
        hits += pointing_game(heat.view(mask.shape), mask, tolerance)
    expected = localization_chance(mask, tolerance)["pointing_game"]
    assert hits / mask.numel() == expected


def test_the_energy_of_shuffled_maps() -> None:
    """Whatever the values are, if their places are random."""
    mask = _mask()
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(mask.numel(), generator=generator) ** 3
    shuffled = torch.stack(
        [values[torch.randperm(len(values), generator=generator)] for _ in range(4000)]
    )
    scores = energy_pointing_game(shuffled.view(-1, *mask.shape), mask)
    expected = localization_chance(mask)["energy_pointing_game"]
    error = float(scores.std()) / len(scores) ** 0.5
    assert error < 0.005 * expected
    assert abs(float(scores.mean()) - expected) < 4 * error


def test_masks_in_a_batch() -> None:
    masks = torch.stack([_mask(), _mask().flip(0), ~_mask()])
    together = localization_chance(masks, 2.0)
    for place, mask in enumerate(masks):
        alone = localization_chance(mask, 2.0)
        assert {name: value[place].item() for name, value in together.items()} == alone
    assert SHARES < set(together)


def test_bad_masks() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        localization_chance(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        localization_chance(torch.ones(4))
    with pytest.raises(ValueError, match="mask is empty"):
        localization_chance(torch.zeros(0, 3))
    with pytest.raises(TypeError, match="mask must be a tensor, got list"):
        localization_chance([[1]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no mask"):
        localization_chance(torch.zeros(0, 3, 3))
