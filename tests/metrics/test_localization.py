"""Localisation measures on maps whose score is known."""

import math
from collections.abc import Callable

import pytest
import torch
from captum_dexar.metrics import (
    best_iou,
    energy_pointing_game,
    pointing_game,
    signal_to_noise,
    soft_iou,
)

MASK = torch.zeros(10, 10, dtype=torch.bool)
MASK[2:6, 3:8] = True  # 20 of 100 pixels
ALL = (soft_iou, best_iou, energy_pointing_game, pointing_game, signal_to_noise)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_mask_itself_is_perfect(scale: float) -> None:
    heat = MASK.float() * scale
    assert soft_iou(heat, MASK) == best_iou(heat, MASK) == 1.0
    assert energy_pointing_game(heat, MASK) == 1.0
    assert pointing_game(heat, MASK)
    assert signal_to_noise(heat, MASK) == math.inf


def test_the_opposite_is_the_worst() -> None:
    heat = 1.0 - MASK.float()
    assert soft_iou(heat, MASK) == energy_pointing_game(heat, MASK) == 0.0
    assert best_iou(heat, MASK) == 0.0
    assert signal_to_noise(heat, MASK) == -math.inf


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_constant_map_finds_nothing(value: float) -> None:
    heat = torch.full((10, 10), value)
    assert all(measure(heat, MASK) == 0 for measure in ALL)


def test_scores_of_a_half_right_map() -> None:
    heat = torch.zeros(10, 10)
    heat[2:6, 3:8] = 1.0
    heat[8] = 0.5  # ten pixels elsewhere, half as hot
    assert soft_iou(heat, MASK) == pytest.approx(20 / 25)
    assert energy_pointing_game(heat, MASK) == pytest.approx(20 / 25)
    assert best_iou(heat, MASK) == 1.0
    assert signal_to_noise(heat, MASK) == pytest.approx(10 * math.log10(80 / 5))


@pytest.mark.parametrize(
    ("peak", "tolerance", "hit"),
    [((3, 4), 0, True), ((0, 4), 0, False), ((0, 4), 2, True), ((0, 0), 3.5, False)],
)
def test_pointing_with_a_tolerance(
    peak: tuple[int, int], tolerance: float, hit: bool
) -> None:
    heat = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    heat[peak] = 2.0
    assert pointing_game(heat, MASK, tolerance) is hit


def test_a_flat_cell_points_at_its_centre() -> None:
    heat = torch.zeros(10, 10)
    heat[2:4, 0:5] = 1.0  # reaches the object, its centre does not
    assert not pointing_game(heat, MASK)
    assert pointing_game(heat, MASK, tolerance=1.2)


@pytest.mark.parametrize("measure", ALL)
def test_bad_input(measure: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="of one size"):
        measure(torch.rand(5, 5), MASK)
    with pytest.raises(ValueError, match="mask is empty"):
        measure(torch.rand(10, 10), torch.zeros(10, 10))
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure(torch.full((10, 10), float("nan")), MASK)
