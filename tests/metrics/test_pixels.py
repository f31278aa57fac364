"""Maps in the shape of a model's pixels, by hand."""

import pytest
import torch
from captum_dexar.metrics import on_pixels

MAPS = torch.tensor([[[[1.0, 3.0]]], [[[0.0, -4.0]]]])


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("bilinear", [[1, 1.5, 2.5, 3], [0, -1, -3, -4]]),
        ("nearest", [[1, 1, 3, 3], [0, 0, -4, -4]]),
    ],
)
def test_every_channel_has_the_map(mode: str, expected: list[list[float]]) -> None:
    pixels = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    found = on_pixels(MAPS, pixels, mode)
    assert found.shape == pixels.shape and found.dtype == pixels.dtype
    for example in range(2):
        assert found[example].tolist() == 3 * [2 * [expected[example]]]
    if mode == "bilinear":
        assert torch.equal(on_pixels(MAPS, pixels), found)


@pytest.mark.parametrize(
    "maps, pixels",
    [
        (MAPS[0], torch.zeros(1, 3, 2, 4)),
        (MAPS.view(1, 2, 1, 2), torch.zeros(1, 3, 2, 4)),
        (MAPS, torch.zeros(2, 3, 8)),
        (MAPS, torch.zeros(1, 3, 2, 4)),
    ],
)
def test_shapes_that_do_not_match(maps: torch.Tensor, pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected maps \(N, 1, h, w\)"):
        on_pixels(maps, pixels)
