"""Places of image tokens: boxes, pixels and pictures say the same."""

import pytest
import torch
from captum_dexar.maps.layout import ImageLayout, View
from torch import Tensor

IMAGE_SIZE = (30, 44)
# The whole image, a crop, padding around it, and edges on the centres of pixels.
RECTANGLES = (
    (0.0, 0.0, 30.0, 44.0),
    (0.0, 7.3, 30.0, 36.9),
    (-7.0, 0.0, 37.0, 44.0),
    (-3.25, -40.5, 12.6, 60.2),
    (4.5, 3.5, 20.5, 19.5),
)
GRIDS = ((4, 4), (3, 7), (1, 1), (50, 60))


def one_view(
    rectangle: tuple[float, float, float, float], grid: tuple[int, int]
) -> ImageLayout:
    view = View("full", grid, rectangle)
    return ImageLayout(grid[0] * grid[1], (view,), (IMAGE_SIZE,))


def boxes_of(layout: ImageLayout) -> Tensor:
    boxes = layout.boxes()
    assert boxes is not None
    return boxes


def area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rectangle", RECTANGLES, ids=str)
def test_boxes_tile_the_seen_part_of_the_image(
    rectangle: tuple[float, float, float, float], grid: tuple[int, int]
) -> None:
    boxes = boxes_of(one_view(rectangle, grid))
    assert boxes.shape == (grid[0] * grid[1], 4)
    y0, x0 = max(rectangle[0], 0), max(rectangle[1], 0)
    y1, x1 = min(rectangle[2], IMAGE_SIZE[0]), min(rectangle[3], IMAGE_SIZE[1])
    assert boxes.amin(0)[:2].tolist() == pytest.approx([y0, x0])
    assert boxes.amax(0)[2:].tolist() == pytest.approx([y1, x1])
    assert float(area(boxes).sum()) == pytest.approx((y1 - y0) * (x1 - x0))
    # Neighbours share an edge, in raster order.
    by_row = boxes.view(*grid, 4)
    assert torch.equal(by_row[:, 1:, 1], by_row[:, :-1, 3])
    assert torch.equal(by_row[1:, :, 0], by_row[:-1, :, 2])
    assert torch.equal(by_row[:, :, 0], by_row[:, :1, 0].expand(grid))
    assert torch.equal(by_row[:, :, 1], by_row[:1, :, 1].expand(grid))


def test_boxes_are_equal_parts_where_nothing_is_clipped() -> None:
    boxes = boxes_of(one_view((4.0, 8.0, 28.0, 40.0), (2, 4)))
    expected = [
        [4.0 + 12.0 * row, 8.0 + 8.0 * column, 16.0 + 12.0 * row, 16.0 + 8.0 * column]
        for row in range(2)
        for column in range(4)
    ]
    assert boxes.tolist() == expected


def test_padding_alone_has_a_box_without_area() -> None:
    layout = one_view((-30.0, 0.0, 60.0, 44.0), (3, 1))
    assert area(boxes_of(layout)).tolist() == [0.0, 30.0 * 44.0, 0.0]
    assert layout.token_of_pixel().unique().tolist() == [1]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rectangle", RECTANGLES, ids=str)
def test_a_pixel_belongs_to_the_box_that_holds_its_centre(
    rectangle: tuple[float, float, float, float], grid: tuple[int, int]
) -> None:
    layout = one_view(rectangle, grid)
    found = layout.token_of_pixel()
    assert tuple(found.shape) == IMAGE_SIZE
    y0, x0, y1, x1 = boxes_of(layout).T
    for y in range(IMAGE_SIZE[0]):
        for x in range(0, IMAGE_SIZE[1], 3):
            holds_y = (y0 <= y + 0.5) & (y + 0.5 < y1)
            holders = (holds_y & (x0 <= x + 0.5) & (x + 0.5 < x1)).nonzero()[:, 0]
            assert holders.tolist() == [int(found[y, x])][: int(found[y, x] >= 0)]


def test_cells_along_a_side() -> None:
    view = View("full", (2, 2), (1.0, -2.0, 5.0, 2.0))
    assert view.cell_of_pixel(7, axis=0).tolist() == [-1, 0, 0, 1, 1, -1, -1]
    assert view.cell_of_pixel(4, axis=1).tolist() == [1, 1, -1, -1]
    # An edge a billionth of a pixel behind the pixel's centre.
    close = View("full", (1, 2), (0.0, 0.0, 1.0, 1.0 + 2e-9))
    assert close.cell_of_pixel(1, axis=1).tolist() == [0]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rectangle", RECTANGLES, ids=str)
def test_a_constant_is_painted_on_exactly_the_seen_pixels(
    rectangle: tuple[float, float, float, float], grid: tuple[int, int]
) -> None:
    layout = one_view(rectangle, grid)
    painted = layout.views[0].render(torch.full((grid[0] * grid[1],), 0.7), IMAGE_SIZE)
    seen = layout.token_of_pixel() >= 0
    assert painted.shape == IMAGE_SIZE
    torch.testing.assert_close(painted, 0.7 * seen.float())


def test_values_lie_at_the_centres_of_the_boxes() -> None:
    # Boxes of 5 x 3 pixels: their centres are centres of pixels.
    values = torch.rand(4 * 6, generator=torch.Generator().manual_seed(0))
    view = View("full", (4, 6), (5.0, 2.0, 25.0, 20.0))
    painted = view.render(values, IMAGE_SIZE)
    at_centres = painted[7:25:5, 3:20:3]
    torch.testing.assert_close(at_centres, values.view(4, 6))


def test_values_are_linear_between_centres_and_constant_at_the_border() -> None:
    view = View("full", (1, 2), (0.0, 0.0, 30.0, 44.0))
    row = view.render(torch.tensor([1.0, 3.0]), IMAGE_SIZE)[12]
    centres = torch.arange(44) + 0.5
    expected = 1.0 + 2.0 * ((centres - 11.0) / 22.0).clamp(0, 1)
    torch.testing.assert_close(row, expected)


@pytest.mark.parametrize("rectangle", RECTANGLES, ids=str)
def test_resizing_scales_every_box(
    rectangle: tuple[float, float, float, float],
) -> None:
    layout = one_view(rectangle, (3, 7))
    larger = layout.resized(((90, 22),))
    factors = torch.tensor([3.0, 0.5, 3.0, 0.5], dtype=torch.float64)
    assert larger.image_sizes == ((90, 22),)
    torch.testing.assert_close(boxes_of(larger), boxes_of(layout) * factors)
    assert larger.num_tokens == layout.num_tokens
    torch.testing.assert_close(
        boxes_of(larger.resized((IMAGE_SIZE,))), boxes_of(layout)
    )


def test_tokens_outside_every_view_have_no_place() -> None:
    layout = ImageLayout(7, (View("full", (2, 3), (0.0, 0.0, 1.0, 1.0), 1),), ((1, 1),))
    assert layout.placed.tolist() == [1, 2, 3, 4, 5, 6]
    assert layout.placeless.tolist() == [0]


def test_views_follow_each_other_and_the_finest_has_the_pixel() -> None:
    whole = View("global", (1, 2), (0.0, 0.0, 30.0, 44.0), start=0)
    tile = View("tile", (2, 1), (0.0, 0.0, 30.0, 11.0), start=3)
    layout = ImageLayout(6, (whole, tile), (IMAGE_SIZE,))
    assert layout.placed.tolist() == [0, 1, 3, 4]
    assert layout.placeless.tolist() == [2, 5]
    assert len(boxes_of(layout)) == 4
    token = layout.token_of_pixel()
    assert token[:, 11:22].unique().tolist() == [0]
    assert token[:, 22:].unique().tolist() == [1]
    assert token[:15, :11].unique().tolist() == [2]
    assert token[15:, :11].unique().tolist() == [3]


def test_the_first_token_keeps_its_pixels() -> None:
    fine = View("tile", (1, 2), (0.0, 0.0, 2.0, 2.0))
    coarse = View("global", (1, 1), (0.0, 0.0, 2.0, 3.0), start=2)
    token = ImageLayout(3, (fine, coarse), ((2, 4),)).token_of_pixel()
    assert token.tolist() == 2 * [[0, 1, 2, -1]] and token.dtype == torch.int32


def test_one_of_several_images() -> None:
    """Its tokens are counted from 0, without newlines and those of other images."""
    whole = (0.0, 0.0, 9.0, 9.0)
    views = (
        View("full", (1, 2), (0.0, 0.0, 30.0, 44.0)),
        View("tile", (2, 2), whole, start=3, image=1, row_stride=3),
        View("global", (1, 2), whole, start=10, image=1),
        View("global", (1, 1), whole, start=12, image=1),
    )
    layout = ImageLayout(13, views, (IMAGE_SIZE, (9, 9)), "roughly")
    second, columns = layout.of_image(1)
    own = (
        View("tile", (2, 2), whole),
        View("global", (1, 2), whole, start=4),
        View("global", (1, 1), whole, start=6),
    )
    assert second == ImageLayout(7, own, ((9, 9),), "roughly")
    assert columns.tolist() == [2, 3, 4, 5, 6, 7, 8]
    first, columns = layout.of_image(0)
    assert first == ImageLayout(2, views[:1], (IMAGE_SIZE,), "roughly")
    assert columns.tolist() == [0, 1]
    unknown = ImageLayout(13, views).of_image(1)[0]
    assert unknown == ImageLayout(7, own)
    for image in (-1, 2):
        with pytest.raises(IndexError, match=f"2 images.* got image {image}"):
            layout.of_image(image)


def test_boxes_are_painted_with_the_sum_of_their_values() -> None:
    """Of the second of two images, which has two views; in any shape of values."""
    views = (
        View("full", (1, 1), (0.0, 0.0, 9.0, 9.0)),
        View("tile", (2, 1), (0.0, 0.0, 2.0, 2.0), start=1, image=1),
        View("global", (1, 2), (0.0, 0.0, 3.0, 4.0), start=3, image=1),
    )
    layout = ImageLayout(5, views, ((9, 9), (3, 5)))
    one = torch.tensor([7.0, 1.0, 2.0, 10.0, 20.0])
    expected = [[11, 11, 20, 20, 0], [12, 12, 20, 20, 0], [10, 10, 20, 20, 0]]
    assert layout.painted(one, 1).tolist() == expected
    several = torch.stack([one, -one, 2 * one]).view(3, 1, 5)
    painted = layout.painted(several, 1)
    assert painted.shape == (3, 1, 3, 5) and painted[0, 0].tolist() == expected
    assert torch.equal(painted[2], -2 * painted[1])
    # Boxes that overlap are counted, even of flags.
    flags = layout.painted(torch.ones(5, dtype=torch.bool), 1)
    assert flags.dtype == torch.float32 and flags[0].tolist() == [2, 2, 1, 1, 0]


def test_without_the_original_image_no_place_is_claimed() -> None:
    layout = ImageLayout(4, (View("full", (2, 2), None),))
    assert layout.boxes() is None
    assert not layout.is_located
    for place in (
        lambda: layout.token_of_pixel(),
        lambda: layout.resized(((3, 3),)),
        lambda: layout.views[0].boxes((3, 3)),
        lambda: layout.views[0].render(torch.ones(4), (3, 3)),
    ):
        with pytest.raises(ValueError, match="not known"):
            place()
