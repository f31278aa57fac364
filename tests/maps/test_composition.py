"""Several views of an image make one map, and nothing is lost or counted twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum_dexar.maps.composition import compose, map_grid, map_view
from captum_dexar.maps.image_tokens import ImageTokenInput
from captum_dexar.maps.layout import ImageLayout, View
from PIL import Image

SIZE = (40, 60)
WHOLE = (0.0, 0.0, 40.0, 60.0)


def tiled(rows: int = 2, columns: int = 3, side: int = 4) -> ImageLayout:
    """Tiles in rows, then a thumbnail."""
    height, width = SIZE[0] / rows, SIZE[1] / columns
    views = [
        View(
            "tile",
            (side, side),
            (r * height, c * width, (r + 1) * height, (c + 1) * width),
            start=(r * columns + c) * side * side,
        )
        for r in range(rows)
        for c in range(columns)
    ]
    count = rows * columns * side * side
    views.append(View("global", (side, side), WHOLE, start=count))
    return ImageLayout(count + side * side, tuple(views), (SIZE,))


def test_a_single_view_keeps_its_grid_and_values() -> None:
    layout = ImageLayout(
        7, (View("full", (2, 3), (-5.0, 0.0, 45.0, 60.0), 1),), (SIZE,)
    )
    values = torch.rand(4, 6)
    assert map_grid(layout) == (2, 3)
    assert torch.equal(compose(values, layout), values.view(4, 2, 3))
    assert map_view(layout) is layout.views[0]


def test_tiles_make_the_finest_grid() -> None:
    assert map_grid(tiled()) == (8, 12)


def test_cells_sum_to_the_tokens() -> None:
    layout = tiled()
    values = torch.rand(2, 5, layout.num_tokens, dtype=torch.float64)
    composed = compose(values, layout)
    assert composed.shape == (2, 5, 8, 12)
    torch.testing.assert_close(composed.sum((-2, -1)), values.sum(-1))


def test_nothing_is_lost_where_boxes_are_smaller_than_a_pixel() -> None:
    views = (
        View("tile", (3, 7), (0.0, 0.0, 2.0, 3.0)),
        View("global", (5, 4), (0.0, 0.0, 2.0, 3.0), start=21),
    )
    layout = ImageLayout(41, views, ((2, 3),))
    values = torch.rand(41, dtype=torch.float64)
    composed = compose(values, layout)
    assert composed.shape == (5, 7)
    torch.testing.assert_close(composed.sum(), values.sum(), rtol=1e-13, atol=0)


def test_one_token_lies_in_its_box_alone() -> None:
    layout = tiled()
    values = torch.zeros(layout.num_tokens)
    values[16 + 4 * 2 + 1] = 3.0  # second tile, third row, second column
    composed = compose(values, layout)
    assert composed.nonzero().tolist() == [[2, 5]]
    assert composed[2, 5] == 3.0


def test_a_thumbnail_token_is_spread_over_its_box() -> None:
    layout = tiled()
    values = torch.zeros(layout.num_tokens)
    values[6 * 16 + 5] = 6.0  # second row, second column of the thumbnail
    composed = compose(values, layout)
    torch.testing.assert_close(composed[2:4, 3:6], torch.ones(2, 3))
    assert composed.sum() == pytest.approx(6.0)


def test_padding_takes_no_share_of_a_token_that_reaches_into_it() -> None:
    """A canvas of 80 x 60 whose lower half is padding."""
    tiles = (
        View("tile", (3, 3), (0.0, 0.0, 50.0, 60.0), start=0),
        View("tile", (3, 3), (50.0, 0.0, 100.0, 60.0), start=9),
    )
    layout = ImageLayout(18, tiles, (SIZE,))
    values = torch.ones(18)
    composed = compose(values, layout)
    assert composed.shape == (3, 3)
    # Rows of 16.7 pixels: two whole, one of which 6.7 pixels are in the image.
    assert composed.sum() == pytest.approx(9.0)


def test_newlines_between_rows_are_left_out() -> None:
    view = View("tile", (2, 3), WHOLE, start=2, row_stride=4)
    assert view.tokens.tolist() == [2, 3, 4, 6, 7, 8]
    layout = ImageLayout(10, (view,), (SIZE,))
    assert layout.placeless.tolist() == [0, 1, 5, 9]


def test_unknown_places_stand_one_below_the_other() -> None:
    views = (View("tile", (2, 2), None), View("global", (1, 3), None, start=4))
    layout = ImageLayout(7, views)
    assert not layout.is_located
    values = torch.stack([torch.arange(7.0), -torch.arange(7.0)])
    expected = [[0, 1, 0], [2, 3, 0], [4, 5, 6]]
    composed = compose(values, layout)
    assert composed[0].tolist() == expected and torch.equal(composed[1], -composed[0])
    assert map_grid(layout) == (3, 3)
    assert map_view(layout) is views[0]


def test_the_composed_map_covers_the_whole_image() -> None:
    assert map_view(tiled()) == View("composed", (8, 12), WHOLE)
    others = tuple(replace(view, image=1) for view in tiled().views)
    first = View("full", (1, 1), (0.0, 0.0, 9.0, 9.0))
    layout = ImageLayout(200, (first, *others), ((9, 9), SIZE))
    assert map_grid(layout, 1) == (8, 12)
    assert map_view(layout, 1) == View("composed", (8, 12), WHOLE, image=1)
    assert map_view(layout) is first
    values = torch.rand(1 + 7 * 16)
    assert torch.equal(compose(values, layout, 1), compose(values[1:], tiled()))


def test_images_are_apart() -> None:
    views = (
        View("full", (1, 2), (0.0, 0.0, 40.0, 60.0), start=0, image=0),
        View("full", (2, 2), (0.0, 0.0, 10.0, 10.0), start=3, image=1),
    )
    layout = ImageLayout(7, views, (SIZE, (10, 10)))
    values = torch.arange(6.0)
    assert compose(values, layout, 0).tolist() == [[0, 1]]
    assert compose(values, layout, 1).tolist() == [[2, 3], [4, 5]]
    second, columns = layout.of_image(1)
    assert columns.tolist() == [2, 3, 4, 5]
    assert second.image_sizes == ((10, 10),) and second.num_tokens == 4
    with pytest.raises(IndexError, match="2 images, counted from 0; got image 2"):
        layout.of_image(2)


def test_overlapping_features_are_painted_with_any_of_them() -> None:
    layout = tiled()
    image = Image.new("RGB", (SIZE[1], SIZE[0]))
    inp = ImageTokenInput([image], layout)
    assert inp.n_itp_features == layout.num_tokens == len(inp.values)
    assert inp.values[0] == "tile0[0,0]" and inp.values[-1] == "global[3,3]"
    present = torch.ones(1, inp.n_itp_features)
    present[0, 6 * 16 + 5] = 0
    painted = torch.tensor(np.array(inp.to_model_input(present).convert("L")))
    white = (painted == 255).nonzero()
    assert white.amin(0).tolist() == [10, 15] and white.amax(0).tolist() == [19, 29]
    assert len(white) == 10 * 15
    summed = inp.format_pixel_attr(torch.ones(1, inp.n_itp_features))
    assert summed.unique().tolist() == [2.0]
