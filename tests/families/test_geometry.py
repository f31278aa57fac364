"""Where patches, tiles and crops lie on an image, by hand and without a model."""

from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum_dexar.families.geometry.canvas import (
    centred_on_canvas,
    centred_on_square,
    kept_cells,
    KeptCells,
)
from captum_dexar.families.geometry.given_layout import given_layout
from captum_dexar.families.geometry.grids import (
    cells_of_pixels,
    patch_of,
    picked,
    side_of,
    tokens_of_picture,
)
from captum_dexar.families.geometry.resizing import (
    resized_and_padded,
    resized_crop,
    resized_size,
)
from captum_dexar.families.geometry.thumbnail import thumbnail_canvas
from captum_dexar.families.geometry.tiles import (
    merged_tokens,
    seen_part,
    tile_rectangles,
)
from captum_dexar.maps.layout import ImageLayout, View
from PIL import Image
from tests.helpers.image_encoder_processors import nougat_processor

Size = tuple[int, int]
CANVASES = [[32, 32], [32, 64], [64, 32]]


def test_an_image_at_the_centre_of_a_square() -> None:
    # The square of 16 pixels has 5 rows of padding above and 6 below.
    assert centred_on_square((5, 16), 0.75) == (-5.0, 0.0, 7.0, 12.0)
    assert centred_on_square((16, 5), 1.0) == (0.0, -5.0, 16.0, 11.0)


def test_cells_that_remain_of_a_canvas() -> None:
    # 21 x 60 becomes 23 x 64 in two tiles side by side, 4 x 4 tokens each: of the four
    # rows only the middle two hold image.
    wide, high = (kept_cells(size, CANVASES, 32, 4) for size in ((21, 60), (60, 21)))
    assert wide == KeptCells(canvas=(32, 64), tiles=(1, 2), first=(1, 0), grid=(2, 8))
    assert high == KeptCells(canvas=(64, 32), tiles=(2, 1), first=(0, 1), grid=(8, 2))
    numbers = sum((*astuple(wide), *astuple(high)), ())
    assert all(isinstance(number, int) for number in numbers)


@pytest.mark.parametrize("seen, cell, end", [(1.0, 8, 60.0), (0.875, 7, 56.25)])
def test_an_image_on_a_canvas(seen: float, cell: int, end: float) -> None:
    """Cells 1 and 2 of the short side, which has 4 pixels of padding at the start."""
    start, stop = (cell - 4) * 21 / 23, (3 * cell - 4) * 21 / 23
    grid, wide = centred_on_canvas((21, 60), CANVASES, 32, 4, seen)
    assert grid == (2, 8) and wide == pytest.approx((start, 0, stop, end))
    grid, high = centred_on_canvas((60, 21), CANVASES, 32, 4, seen)
    assert grid == (8, 2) and high == pytest.approx((0, start, end, stop))


def test_a_given_grid() -> None:
    view = View("full", (2, 3), (0.0, 0.0, 20.0, 31.0))
    for grid in ((2, 3), [2, 3]):
        layout = given_layout(6, [(20, 31)], grid=grid)  # type: ignore[arg-type]
        assert layout == ImageLayout(6, (view,), ((20, 31),))
    unknown = ImageLayout(6, (View("full", (2, 3), None),), None)
    assert given_layout(6, None, grid=(2, 3)) == unknown
    assert given_layout(1, None, grid=(1, 1)).num_tokens == 1


def test_given_boxes() -> None:
    boxes = torch.tensor([[0, 1, 2, 3], [4, 5, 7, 9]])
    views = (
        View("box", (1, 1), (0.0, 1.0, 2.0, 3.0), start=0),
        View("box", (1, 1), (4.0, 5.0, 7.0, 9.0), start=1),
    )
    expected = ImageLayout(2, views, ((20, 31),))
    assert given_layout(2, [(20, 31)], boxes=boxes) == expected
    # A third of a pixel stays what it is in double precision.
    third: Any = [[0.0, 0.0, 1 / 3, 1.0]]
    given = given_layout(1, [(20, 31)], boxes=third)
    assert given.views[0].rectangle == (0.0, 0.0, 1 / 3, 1.0)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"grid": (2, 3), "boxes": torch.zeros(6, 4)}, ValueError, "not both"),
        ({"grid": (2, 2)}, ValueError, "2 x 2 has 4 cells"),
        ({"grid": (6,)}, TypeError, "two positive integers"),
        ({"grid": {2: 0, 3: 0}}, TypeError, "two positive integers"),
        ({"grid": (2, 3, 1)}, TypeError, "two positive integers"),
        ({"grid": (0, 6)}, TypeError, "two positive integers"),
        ({"grid": (2.0, 3)}, TypeError, "two positive integers"),
        ({"boxes": "everywhere"}, TypeError, "boxes must be a tensor"),
        ({"boxes": torch.ones(5, 4)}, ValueError, r"\(6, 4\), got \(5, 4\)"),
        ({"boxes": torch.ones(6, 4)}, ValueError, "y1 > y0 and x1 > x0"),
    ],
)
def test_places_that_can_not_be_given(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        given_layout(6, [(20, 31)], **arguments)


def test_boxes_have_two_sides_and_an_image() -> None:
    flat = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 1.0]])
    for boxes in (flat, flat[:, [1, 0, 3, 2]]):
        with pytest.raises(ValueError, match="y1 > y0 and x1 > x0"):
            given_layout(2, [(20, 31)], boxes=boxes)
    with pytest.raises(ValueError, match="which is not known"):
        given_layout(1, None, boxes=flat[:1])
    with pytest.raises(ValueError, match="for one image, got 2"):
        given_layout(2, [(20, 31), (20, 31)], grid=(1, 2))


def test_squares_of_tokens() -> None:
    assert [side_of(1), side_of(49)] == [1, 7]
    for number in (48, 50):
        with pytest.raises(ValueError, match="no square grid"):
            side_of(number)


@pytest.mark.parametrize(
    "size, expected",
    [(14, (14, 14)), ([14, 16], (14, 16)), ((14, 16), (14, 16)), ([2, 3, 4], None)],
    ids=str,
)
def test_patch_of_a_configuration(size: Any, expected: Size | None) -> None:
    vision = SimpleNamespace(patch_size=size)
    assert patch_of(SimpleNamespace(vision_config=vision)) == expected


def test_configurations_without_a_patch() -> None:
    assert patch_of(SimpleNamespace()) is None
    assert patch_of(SimpleNamespace(vision_config=SimpleNamespace())) is None


def test_pixels_and_cells_along_a_side() -> None:
    # Four patches of two pixels, two of which make a cell; the last pixel is left over.
    assert cells_of_pixels(9, 2, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, -1]
    # A fifth patch is less than another cell: no cell has it.
    assert cells_of_pixels(10, 2, 2).tolist() == 4 * [0] + 4 * [1] + [-1, -1]
    # As many patches as cells.
    assert cells_of_pixels(5, 2, 2).tolist() == [0, 0, 1, 1, -1]
    # Three patches for two cells: the second patch is the first cell's.
    assert cells_of_pixels(6, 2, 2).tolist() == [0, 0, 0, 0, 1, 1]
    assert cells_of_pixels(8, 6, 1).tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
    # Fewer patches than cells: the cells fill the side.
    assert cells_of_pixels(6, 4, 2).tolist() == [0, 0, 1, 2, 2, 3]


def test_tokens_of_a_picture() -> None:
    view = View("full", (2, 3), None, start=5)
    low, high = [5, 5, 6, 6, 7, 7, -1], [8, 8, 9, 9, 10, 10, -1]
    found = tokens_of_picture(view, (5, 7), (2, 2))
    assert found.tolist() == [low, low, high, high, 7 * [-1]]
    found = tokens_of_picture(view, (7, 7), (3, 2))
    assert found.tolist() == 3 * [low] + 3 * [high] + [7 * [-1]]
    whole = tokens_of_picture(view, (2, 6), None)
    assert whole.tolist() == [[5, 5, 6, 6, 7, 7], [8, 8, 9, 9, 10, 10]]


def test_entries_of_a_grid() -> None:
    grid = torch.tensor([[1, 2], [3, 4]])
    found = picked(grid, torch.tensor([1, -1, 0]), torch.tensor([0, 1, -1]))
    assert found.tolist() == [[3, 4, -1], [-1, -1, -1], [1, 2, -1]]


def processor(**settings: Any) -> Any:
    return SimpleNamespace(**{"do_resize": True, **settings})


@pytest.mark.parametrize(
    "settings, size, seen, expected",
    [
        ({"do_resize": False}, (10, 20), (8, 12), (0, 0, 8, 12)),
        # 10 x 40 becomes 20 x 10: the sides are scaled by themselves.
        ({"size": {"height": 20, "width": 10}}, (10, 40), (18, 9), (0, 0, 9, 36)),
        # Padding of 10 before and 11 after, then half the size.
        (
            {"do_pad": True, "size": {"height": 62, "width": 62}},
            (10, 31),
            (62, 60),
            (-10, 0, 21, 30),
        ),
        (
            {"do_pad": True, "size": {"height": 62, "width": 62}},
            (31, 10),
            (62, 60),
            (0, -10, 31, 20),
        ),
        # 20 x 80, of which 32 columns are cut off on the left and 33 on the right.
        (
            {
                "do_center_crop": True,
                "size": {"shortest_edge": 20},
                "crop_size": {"height": 20, "width": 15},
            },
            (10, 40),
            (16, 12),
            (0, 16, 8, 22),
        ),
        (
            {
                "do_center_crop": True,
                "size": {"shortest_edge": 20},
                "crop_size": {"height": 15, "width": 20},
            },
            (40, 10),
            (12, 16),
            (16, 0, 22, 8),
        ),
        # A square of 12 becomes one of 24, of which 16 rows and 18 columns are kept.
        (
            {
                "do_pad": True,
                "do_center_crop": True,
                "size": {"height": 24, "width": 24},
                "crop_size": {"height": 16, "width": 18},
            },
            (8, 12),
            (16, 18),
            (0, 1.5, 8, 10.5),
        ),
    ],
)
def test_what_a_crop_leaves(
    settings: dict[str, Any], size: Size, seen: Size, expected: Any
) -> None:
    assert resized_crop(processor(**settings), size, seen) == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings, size, expected",
    [
        ({"do_pad": True}, (10, 30), (-10, 0, 20, 30)),
        ({"do_pad": True}, (30, 10), (0, -10, 30, 20)),
        ({"do_pad": False}, (10, 30), (0, 0, 10, 30)),
        # 4 x 60 would be less than the least height, 14.
        ({"do_pad": True}, (2, 30), (-23 * 2 / 14, 0, 37 * 2 / 14, 30)),
        ({"do_pad": True}, (30, 2), (0, -23 * 2 / 14, 30, 37 * 2 / 14)),
        ({"do_pad": True, "do_resize": False}, (10, 31), (-10, 0, 21, 31)),
    ],
)
def test_what_a_padded_square_covers(
    settings: dict[str, Any], size: Size, expected: Any
) -> None:
    made = resized_and_padded(processor(min_size=14, **settings), size, 60)
    assert made == pytest.approx(expected)


@pytest.mark.parametrize(
    "size, expected",
    [
        ({"shortest_edge": 20}, (20, 80)),
        ({"shortest_edge": 20, "longest_edge": 48}, (12, 48)),
        ({"shortest_edge": 20, "longest_edge": 100}, (20, 80)),
        ({"max_height": 100, "max_width": 200}, (50, 200)),
        ({"height": 7, "width": 9}, (7, 9)),
    ],
    ids=str,
)
def test_size_after_resizing(size: dict[str, int], expected: Size) -> None:
    assert resized_size(size, (10, 40)) == expected


CANVAS = {"height": 60, "width": 40}


@pytest.mark.parametrize(
    "settings, size, expected",
    [
        # 120 x 40 after resizing, 60 x 20 as a thumbnail, 10 columns of padding.
        ({"do_thumbnail": True, "do_pad": True}, (30, 10), (0, -5, 30, 15)),
        ({"do_thumbnail": True, "do_pad": False}, (30, 10), (0, 0, 30, 10)),
        # 40 x 80, then 20 x 40, and 20 rows of padding.
        ({"do_thumbnail": True, "do_pad": True}, (10, 20), (-10, 0, 20, 20)),
        # A square has no longer side; each of its sides is cut to the canvas.
        (
            {"do_thumbnail": True, "do_pad": True, "do_resize": False},
            (80, 80),
            (0, 0, 80, 80),
        ),
        # Smaller than the canvas: 20 rows above, 5 columns and 6 on the sides.
        (
            {"do_thumbnail": True, "do_pad": True, "do_resize": False},
            (20, 29),
            (-20, -5, 40, 35),
        ),
        # Without a thumbnail: 120 x 40 on 60 x 40, cut off above and below.
        ({"do_pad": True}, (30, 10), (7.5, 0, 22.5, 10)),
    ],
)
def test_a_thumbnail_on_its_canvas(
    settings: dict[str, Any], size: Size, expected: Any
) -> None:
    made = thumbnail_canvas(processor(size=CANVAS, **settings), size, None)
    assert made == pytest.approx(expected)


def test_images_that_lie_across_their_canvas() -> None:
    aligned = processor(size=CANVAS, do_pad=False, do_align_long_axis=True)
    for size in ((30, 10), (10, 10)):
        assert thumbnail_canvas(aligned, size, None) == (0, 0, *size)
    with pytest.raises(ValueError, match="rotated the image by 90 degrees"):
        thumbnail_canvas(aligned, (10, 11), None)
    aligned.size = {"height": 40, "width": 60}
    with pytest.raises(ValueError, match="rotated the image by 90 degrees"):
        thumbnail_canvas(aligned, (11, 10), None)


def test_margins_that_are_cut_off() -> None:
    """24 x 12 black pixels on white, which are enlarged to the canvas of 48 x 24."""
    settings = nougat_processor(
        size={"height": 48, "width": 24}, do_convert_rgb=True
    ).image_processor
    image = Image.new("RGB", (33, 50), "white")
    image.paste((0, 0, 0), (6, 9, 18, 33))
    for given in (image, image.convert("P")):
        found = thumbnail_canvas(settings, (50, 33), given)
        assert found == pytest.approx((9, 6, 33, 18))
    assert thumbnail_canvas(settings, (50, 33), None) is None
    # An image of one colour has no margins.
    plain = Image.new("RGB", (24, 48), "white")
    assert thumbnail_canvas(settings, (48, 24), plain) == (0, 0, 48, 24)


def test_tiles_of_a_stretched_image() -> None:
    assert seen_part(27, 14, 384) == 378 / 384
    side, seen = merged_tokens(384, 14, 2)
    assert (side, seen) == (13, 364 / 384) and isinstance(side, int)
    assert tile_rectangles((20, 60), 2, 3, 0.5) == [
        (0, 0, 5, 10),
        (0, 20, 5, 30),
        (0, 40, 5, 50),
        (10, 0, 15, 10),
        (10, 20, 15, 30),
        (10, 40, 15, 50),
    ]
