"""The values and pixels of an image's parts, and what replaces pixels, by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.metrics.fills import filling_pixels
from captum_dexar.metrics.image_parts import ImageParts
from PIL import Image

# Two tokens side by side; the last column of pixels is not seen.
VIEW = View("full", (1, 2), (0.0, 0.0, 2.0, 4.0))
LAYOUT = ImageLayout(2, (VIEW,), ((2, 5),))
PIXELS = torch.tensor([[1.0, 2.0, 5.0, 6.0, 100.0], [3.0, 4.0, 7.0, 8.0, 100.0]])


def test_a_map_of_pixels_is_averaged_over_each_box() -> None:
    parts = ImageParts.of(LAYOUT)
    assert parts.unit == "token"
    assert parts.values([PIXELS]).tolist() == [2.5, 6.5]
    assert parts.values([PIXELS.clone().requires_grad_()]).tolist() == [2.5, 6.5]
    assert parts.values([torch.tensor([[3, 9]])]).tolist() == [3.0, 9.0]


def test_a_map_of_tokens_is_interpolated_to_pixels() -> None:
    parts = ImageParts.of(LAYOUT, "pixel")
    found = parts.values([torch.tensor([[0.0, 2.0]])]).reshape(2, 5)
    # The centres of the tokens lie between pixels.
    assert found.tolist() == 2 * [[0.0, 0.5, 1.5, 2.0, 0.0]]
    assert parts.values([PIXELS]).tolist() == PIXELS.flatten().tolist()
    # A grid of the image's own size is a map of its pixels.
    fine = View("full", (2, 5), (0.0, 0.0, 2.0, 5.0))
    own = ImageParts.of(ImageLayout(10, (fine,), ((2, 5),)), "pixel")
    assert own.values([PIXELS]).tolist() == PIXELS.flatten().tolist()


def test_segments_have_the_mean_of_their_pixels() -> None:
    masks = torch.zeros(3, 2, 5, dtype=torch.bool)
    masks[0, :, :2] = masks[1, 0, 2:] = True
    layout = SegmentLayout.of_masks(masks, ["a", "b", "none"], (2, 5))
    parts = ImageParts.of(layout)
    assert parts.counts == (3,)
    assert parts.labels[0].tolist() == [[0, 0, 1, 1, 1], [0, 0, -1, -1, -1]]
    assert parts.values([PIXELS]).tolist() == [2.5, 37.0, 0.0]
    assert parts.ranked(np.array([1.0, 2.0, 3.0])).order.tolist() == [1, 0]


def test_three_images_with_grids_of_their_own() -> None:
    views = (
        VIEW,
        View("full", (2, 1), (0.0, 0.0, 4.0, 1.0), start=2, image=1),
        View("full", (1, 1), (0.0, 0.0, 1.0, 1.0), start=4, image=2),
    )
    parts = ImageParts.of(ImageLayout(5, views, ((2, 5), (4, 1), (1, 1))))
    grids = [[[1.0, 2.0]], [[3.0], [4.0]], [[5.0]]]
    assert parts.values([torch.tensor(one) for one in grids]).tolist() == [
        1,
        2,
        3,
        4,
        5,
    ]
    chosen = parts.pixels(np.array([False, True, True, False, True]))
    assert chosen[0].tolist() == 2 * [[False, False, True, True, False]]
    assert chosen[1].flatten().tolist() == [True, True, False, False]
    assert chosen[2].tolist() == [[True]]


def test_maps_that_do_not_fit() -> None:
    parts = ImageParts.of(LAYOUT)
    for maps, message in [
        ([], "each of 1 images, got 0"),
        ([PIXELS, PIXELS], "each of 1 images, got 2"),
        ([PIXELS.T], r"\(2, 5\), or on the image tokens, \(1, 2\), got \(5, 2\)"),
        ([PIXELS / 0], "NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            parts.values(maps)
    for layout in (
        ImageLayout(2, (VIEW,)),
        ImageLayout(2, (View("full", (1, 2), None),), ((2, 5),)),
    ):
        with pytest.raises(ValueError, match="original images are not known"):
            ImageParts.of(layout)


def test_a_seed_may_be_any_number() -> None:
    parts = ImageParts.of(LAYOUT, "pixel")
    values = np.zeros(10)
    orders = [parts.ranked(values, seed).order.tolist() for seed in (-1, 2**32 - 1)]
    assert orders[0] == orders[1] == parts.ranked(values, 2**33 - 1).order.tolist()
    others = [parts.ranked(values, seed).order.tolist() for seed in range(4)]
    assert all(one not in others[:place] for place, one in enumerate(others))
    assert sorted(orders[0]) == [0, 1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "fraction, number", [(0.0, 0), (0.12, 0), (0.13, 1), (0.375, 2), (0.37, 1), (1, 4)]
)
def test_the_nearest_number_of_parts_is_removed(fraction: float, number: int) -> None:
    view = View("full", (1, 4), (0.0, 0.0, 1.0, 4.0))
    parts = ImageParts.of(ImageLayout(4, (view,), ((1, 4),)))
    ranking = parts.ranked(np.array([4.0, 3.0, 2.0, 1.0]))
    first = [place < number for place in range(4)]
    assert ranking.removed(fraction, "positive", "removal").tolist() == first
    shown = ~ranking.removed(fraction, "negative", "insertion")
    assert shown.tolist() == first[::-1]


def test_colours_that_replace_pixels() -> None:
    # Means of a third and two thirds are rounded; so are numbers between levels.
    image = Image.new("RGB", (3, 2), (1, 0, 7))
    image.paste((0, 1, 7), (0, 0, 2, 2))
    assert (filling_pixels([image], "mean")[0] == (0, 1, 7)).all()
    for colour in ((0, 0, 0), (255, 255, 255), [0.4, np.float32(254.6), 3]):
        (filled,) = filling_pixels([image], colour)
        assert filled.shape == (2, 3, 3) and filled.dtype == np.uint8
        assert (filled == np.rint(np.array(colour, dtype=float))).all()
    grey = Image.new("L", (3, 2), 9)
    assert (filling_pixels([image], grey)[0] == np.full((2, 3, 3), 9)).all()
    # The shorter side counts, whichever it is.
    noise = np.random.RandomState(0).randint(0, 256, (32, 64, 3)).astype(np.uint8)
    wide = Image.fromarray(noise)
    high = Image.fromarray(noise.transpose(1, 0, 2).copy())
    blurred, turned = filling_pixels([wide, high], "blur")
    assert abs(blurred.astype(int) - turned.transpose(1, 0, 2)).max() <= 2
    assert blurred.std() < 0.3 * noise.std()


@pytest.mark.parametrize("fill", [(-1, 0, 0), (0, 0, 255.5), (1, 2, 3, 4)])
def test_numbers_that_are_no_colour(fill: Any) -> None:
    with pytest.raises(ValueError, match="three numbers from 0 to 255"):
        filling_pixels([Image.new("RGB", (2, 2))], fill)
