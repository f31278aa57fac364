"""Localisation measures on maps whose score is known."""

import math
from collections.abc import Callable
from typing import Any

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


@pytest.mark.parametrize("tolerance", [-1.0, math.inf, math.nan])
def test_a_tolerance_is_a_distance(tolerance: float) -> None:
    mask = torch.eye(3)
    with pytest.raises(ValueError, match="tolerance must be a distance"):
        pointing_game(torch.rand(3, 3), mask, tolerance)
    with pytest.raises(ValueError, match="tolerance must be a distance"):
        localization_chance(mask, tolerance)


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
    with pytest.raises(ValueError, match="map is empty"):
        measure(torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure(torch.full((10, 10), float("nan")), MASK)
    with pytest.raises(ValueError, match="mask holds NaN"):
        measure(torch.rand(10, 10), torch.full((10, 10), float("nan")))
    arrays: Any = torch.rand(10, 10).numpy(), MASK.numpy()
    with pytest.raises(TypeError, match="map must be a tensor, got ndarray"):
        measure(arrays[0], MASK)
    with pytest.raises(TypeError, match="mask must be a tensor, got ndarray"):
        measure(torch.rand(10, 10), arrays[1])


def _literal_best_iou(heat: torch.Tensor, mask: torch.Tensor) -> float:
    """Pixel by pixel, at every threshold."""
    low, high = float(heat.min()), float(heat.max())
    best = 0.0
    for k in range(1, 21):
        shared = union = 0
        for value, inside in zip(heat.flatten().tolist(), mask.flatten().tolist()):
            found = (value - low) / (high - low) >= k / 21
            shared += found and inside
            union += found or inside
        best = max(best, shared / union)
    return best


def _literal(heat: torch.Tensor, mask: torch.Tensor) -> tuple[float, float, float]:
    """Soft-IoU, EPG and SNR from plain sums."""
    values, inside = heat.double().flatten().tolist(), mask.flatten().tolist()
    low, high = min(values), max(values)
    values = [(value - low) / (high - low) for value in values]
    shared = sum(value for value, is_in in zip(values, inside) if is_in)
    area = sum(inside)
    elsewhere = (sum(values) - shared) / (len(values) - area)
    return (
        shared / (sum(values) + area - shared),
        shared / sum(values),
        10 * math.log10(shared / area / elsewhere),
    )


def _maps(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, *size, generator=generator)
    # Values on the thresholds themselves, and many equal ones.
    maps[0] = (21 * maps[0]).round() / 21
    return maps


def test_a_second_implementation() -> None:
    for heat in _maps(4, (10, 10)):
        soft, energy, decibels = _literal(heat, MASK)
        assert soft_iou(heat, MASK) == pytest.approx(soft, rel=1e-12)
        assert energy_pointing_game(heat, MASK) == pytest.approx(energy, rel=1e-12)
        assert signal_to_noise(heat, MASK) == pytest.approx(decibels, rel=1e-12)
        assert best_iou(heat, MASK) == _literal_best_iou(heat.double(), MASK)


@pytest.mark.parametrize("measure", ALL)
def test_a_batch_equals_single_maps(measure: Callable[..., Any]) -> None:
    maps = _maps(6, (17, 23))
    maps[1] = 0.0
    maps[2] -= 0.5
    masks = maps.flip(0) > 0.6
    masks[3] = True  # the object fills the image
    masks[1, 0, 0] = masks[4, 0, 0] = True
    of_each, of_one = measure(maps, masks), measure(maps, masks[0])
    assert of_each.shape == of_one.shape == (6,)
    for place in range(6):
        alone = measure(maps[place], masks[place])
        assert isinstance(alone, (float, bool)) and of_each[place].item() == alone
        assert of_one[place].item() == measure(maps[place], masks[0])


@pytest.mark.parametrize("measure", ALL)
def test_scale_and_size_do_not_matter(measure: Callable[..., Any]) -> None:
    for place, heat in enumerate(_maps(5, (10, 10))):
        expected = measure(heat, MASK)
        assert measure(heat * 2**-20, MASK) == expected
        if place > 0:  # the first has values on the thresholds, where rounding decides
            assert measure(heat + 7, MASK) == pytest.approx(expected, rel=1e-3)
        larger = [
            one.repeat_interleave(3, 0).repeat_interleave(3, 1) for one in (heat, MASK)
        ]
        assert measure(*larger) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("value", [255, -1, 0.25])
def test_what_is_not_zero_is_the_object(
    measure: Callable[..., Any], value: float
) -> None:
    heat = _maps(2, (10, 10))[1]
    assert measure(heat, MASK * value) == measure(heat, MASK)


@pytest.mark.parametrize("measure", ALL)
def test_tensors_are_made_on_the_device_of_the_map(measure: Callable[..., Any]) -> None:
    """Whatever torch's default device is; of the one called meta nothing is known."""
    heat = _maps(2, (10, 10))[1]
    expected = measure(heat, MASK)
    with torch.device("meta"):
        assert measure(heat, MASK) == expected


def test_shapes_that_do_not_match() -> None:
    for heat, mask in [((4, 4), (2, 4, 4)), ((3, 4, 4), (2, 4, 4)), ((4,), (4,))]:
        with pytest.raises(ValueError, match="one mask or N masks, got"):
            soft_iou(torch.rand(heat), torch.ones(mask))
    masks = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    with pytest.raises(ValueError, match="mask is empty"):
        soft_iou(torch.rand(2, 4, 4), masks)


def test_a_pixel_on_the_threshold_is_found() -> None:
    heat = torch.tensor([[0.0, 1 / 21, 1.0]], dtype=torch.float64)
    assert best_iou(heat, torch.tensor([[0, 1, 1]])) == 1.0
