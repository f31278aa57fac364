"""Segments of an image as the columns of a map."""

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar.maps.composition import compose, map_grid
from captum_dexar.maps.image_tokens import ImageTokenInput, token_names
from captum_dexar.maps.layout import View
from captum_dexar.maps.segments import LONGEST_SIDE, SegmentLayout
from PIL import Image
from torch import Tensor

SIZE = (5, 7)
VALUES = torch.tensor([[1.0, -2.0, 4.0], [0.5, 0.25, 3.0]])


def masks(overlapping: bool) -> list[Tensor]:
    one, two, three = (torch.zeros(SIZE, dtype=torch.bool) for _ in range(3))
    one[:2] = True
    two[3:, 2:] = True
    three[1 if overlapping else 2 : 5, :2] = True
    return [one, two, three]


def layout_of(overlapping: bool) -> SegmentLayout:
    return SegmentLayout.of_masks(masks(overlapping), ["sky", "sea", "rock"], SIZE)


@pytest.mark.parametrize("overlapping", [False, True])
def test_maps_are_painted_as_captum_paints_them(overlapping: bool) -> None:
    layout = layout_of(overlapping)
    image = Image.new("RGB", SIZE[::-1])
    theirs = ImageMaskInput(image, mask_list=masks(overlapping))
    expected = theirs.format_pixel_attr(VALUES[:1])
    assert torch.equal(layout.painted(VALUES[:1]), expected)
    assert torch.equal(compose(VALUES[:1], layout), expected)
    assert map_grid(layout) == SIZE
    ours = ImageTokenInput([image], layout)
    assert torch.equal(ours.format_pixel_attr(VALUES[:1]), expected)
    for mine, yours in zip(ours.get_mask_list(), theirs.get_mask_list()):
        assert torch.equal(mine, yours)
    assert ours.values == token_names(layout) == ["sky", "sea", "rock"]
    assert len(layout.labels) == (2 if overlapping else 1)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("absent", range(3))
def test_absent_segments_are_painted_over(overlapping: bool, absent: int) -> None:
    image = Image.new("RGB", SIZE[::-1], (10, 20, 30))
    present = torch.ones(1, 3)
    present[0, absent] = 0
    ours = ImageTokenInput([image], layout_of(overlapping)).to_model_input(present)
    theirs = ImageMaskInput(image, mask_list=masks(overlapping))
    assert ours.tobytes() == theirs.to_model_input(present).tobytes()


def test_places() -> None:
    layout = layout_of(overlapping=True)
    assert layout.placed.tolist() == [0, 1, 2] and not len(layout.placeless)
    assert layout.is_located and layout.num_images == 1
    assert layout.boxes().tolist() == [[0, 0, 2, 7], [3, 2, 5, 7], [1, 0, 5, 2]]
    segment = layout.token_of_pixel()
    assert segment[2, 3] == -1 and segment[0, 0] == 0 and segment[4, 6] == 1
    assert segment[1, 0] == 2, "the smaller one"
    assert layout.of_image(0)[0] is layout
    for call in (layout.of_image, layout.token_of_pixel):
        with pytest.raises(IndexError, match="one segmented image, got the index 1"):
            call(1)


def test_the_smallest_of_several_segments_has_the_pixel() -> None:
    """Each covers the next one, and the last has no pixel."""
    nested = torch.zeros(4, 1, 6, dtype=torch.bool)
    for segment, (start, stop) in enumerate(((3, 4), (1, 6), (2, 6))):
        nested[segment, :, start:stop] = True
    layout = SegmentLayout.of_masks(nested, ["a", "b", "c", "d"], (1, 6))
    assert layout.labels.shape == (3, 1, 6) and layout.labels.dtype == torch.int32
    assert layout.token_of_pixel().tolist() == [[-1, 1, 2, 0, 2, 2]]
    painted = layout.painted(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert painted.tolist() == [[0, 2, 6, 7, 6, 6]]
    empty = SegmentLayout.of_masks(nested[3:].repeat(2, 1, 1), ["d", "e"], (1, 6))
    assert (empty.token_of_pixel() == -1).all()
    assert empty.boxes().tolist() == [4 * [0], 4 * [0]]


def test_pixels_that_are_not_seen_belong_to_none() -> None:
    seen = torch.zeros(SIZE, dtype=torch.bool)
    seen[:, :2] = True
    names = ["sky", "sea", "rock"]
    layout = SegmentLayout.of_masks(masks(False), names, SIZE, seen)
    assert (layout.painted(VALUES[0])[:, 2:] == 0).all()
    assert layout.boxes()[1].tolist() == [0, 0, 0, 0], "it has no pixel that is seen"


@pytest.mark.parametrize("size", [(1, 4 * LONGEST_SIDE), (4 * LONGEST_SIDE, 1)])
def test_maps_of_thin_images_have_a_cell_across(size: tuple[int, int]) -> None:
    layout = SegmentLayout.of_masks([torch.ones(size)], ["all"], size)
    grid = (min(size[0], LONGEST_SIDE), min(size[1], LONGEST_SIDE))
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    assert layout.views == (View("segments", grid, whole),)
    assert compose(torch.tensor([2.0]), layout).tolist() == torch.full(grid, 2).tolist()


def test_maps_of_large_images_have_fewer_cells() -> None:
    width = 4 * LONGEST_SIDE
    halves = torch.zeros(2, 8, width, dtype=torch.bool)
    halves[0, :, : width // 2] = True
    halves[1, :, width // 2 :] = True
    layout = SegmentLayout.of_masks(halves, ["left", "right"], (8, width))
    assert layout.painted(torch.ones(3, 2)).shape == (3, 8, width)
    composed = compose(torch.tensor([1.0, 2.0]), layout)
    assert composed.shape == (2, LONGEST_SIDE)
    assert (composed[:, : LONGEST_SIDE // 2] == 1).all()
    assert (composed[:, LONGEST_SIDE // 2 :] == 2).all()
    small = layout.resized(((4, 10),))
    assert small.token_of_pixel().tolist() == [[0] * 5 + [1] * 5] * 4
    assert small.names == layout.names and small.image_sizes == ((4, 10),)


def test_equality_compares_pixels_and_names() -> None:
    assert layout_of(True) == layout_of(True)
    assert layout_of(True) != layout_of(False)
    renamed = SegmentLayout.of_masks(masks(True), ["a", "b", "c"], SIZE)
    assert renamed != layout_of(True)
    assert layout_of(True) != 3
