"""An image whose features are its tokens' boxes: names, copies, painted pixels."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar.maps.image_tokens import (
    display_input,
    ImageTokenInput,
    one_or_all,
    token_names,
)
from captum_dexar.maps.layout import ImageLayout, View
from PIL import Image

RED, BLUE = (200, 10, 10), (10, 10, 200)


def two_images() -> tuple[list[Image.Image], ImageLayout]:
    """One token per half of a red picture, and one on the left half of a blue one."""
    views = (
        View("full", (1, 2), (0.0, 0.0, 4.0, 6.0)),
        View("full", (1, 1), (0.0, 0.0, 2.0, 2.0), start=2, image=1),
    )
    images = [Image.new("RGB", (6, 4), RED), Image.new("RGB", (4, 2), BLUE)]
    return images, ImageLayout(3, views, ((4, 6), (2, 4)))


def test_names_of_tokens() -> None:
    def view(name: str, grid: tuple[int, int], image: int = 0) -> View:
        return View(name, grid, None, image=image)

    one = ImageLayout(2, (view("full", (2, 1)),))
    assert token_names(one) == ["full[0,0]", "full[1,0]"]
    several = (
        view("tile", (1, 2)),
        view("global", (1, 1)),
        view("tile", (1, 1)),
        view("tile", (1, 1)),
        view("tile", (1, 1), image=1),
    )
    assert token_names(ImageLayout(5, several[:4])) == [
        "tile0[0,0]",
        "tile0[0,1]",
        "global[0,0]",
        "tile1[0,0]",
        "tile2[0,0]",
    ]
    assert token_names(ImageLayout(6, several)) == [
        "image0 tile0[0,0]",
        "image0 tile0[0,1]",
        "image0 global[0,0]",
        "image0 tile1[0,0]",
        "image0 tile2[0,0]",
        "image1 tile[0,0]",
    ]


def test_absent_tokens_are_painted_over_on_every_image() -> None:
    images, layout = two_images()
    seen: list[Any] = []
    inp = ImageTokenInput(images, layout, seen.append, baseline=(1, 2, 3))
    assert seen == [images] and inp.image is inp.images[0]
    assert inp.n_itp_features == 3 and inp.mask_id_to_idx == {0: 0, 1: 1, 2: 2}
    assert torch.equal(inp.mask, layout.token_of_pixel())
    inp.to_model_input(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
    first, second = (np.array(image) for image in seen[1])
    assert (first[:, :3] == RED).all() and (first[:, 3:] == (1, 2, 3)).all()
    assert (second[:, :2] == (1, 2, 3)).all() and (second[:, 2:] == BLUE).all()


def test_removed_pixels_are_white_by_default() -> None:
    images, layout = two_images()
    first, _ = layout.of_image(0)
    inp = ImageTokenInput(images[:1], first)
    painted = np.array(inp.to_model_input(torch.tensor([[0.0, 1.0]])))
    assert (painted[:, :3] == 255).all() and (painted[:, 3:] == RED).all()


def test_model_inputs_are_made_once_and_handed_out_as_copies() -> None:
    images, layout = two_images()

    def process(made: Any) -> Any:
        raise AssertionError("they are known already")

    known = {"pixel_values": torch.zeros(2)}
    inp = ImageTokenInput(images, layout, process, model_inputs=known)
    handed_out = inp.to_model_input()
    handed_out["pixel_values"] += 1
    assert not known["pixel_values"].any()
    assert not inp.to_model_input()["pixel_values"].any()
    assert inp.processor_fn is process


def test_a_copy_without_the_processor_can_be_pickled() -> None:
    images, layout = two_images()
    inp = ImageTokenInput(images, layout, lambda made: {"made": made})
    plain = pickle.loads(pickle.dumps(inp.without_processor()))
    assert isinstance(plain, ImageTokenInput) and plain.layout == layout
    assert plain.values == inp.values and plain.n_itp_features == 3
    assert [one.tobytes() for one in plain.to_model_input()] == [
        one.tobytes() for one in images
    ]
    present = torch.tensor([[1.0, 0.0, 1.0]])
    theirs, ours = inp.to_model_input(present)["made"], plain.to_model_input(present)
    assert [one.tobytes() for one in ours] == [one.tobytes() for one in theirs]


def test_masks_and_pixels_of_the_first_image() -> None:
    images, layout = two_images()
    inp = ImageTokenInput(images, layout)
    masks = torch.stack(inp.get_mask_list()).int().tolist()
    assert masks[:2] == [4 * [[1, 1, 1, 0, 0, 0]], 4 * [[0, 0, 0, 1, 1, 1]]]
    painted = inp.format_pixel_attr(torch.tensor([[2.0, -1.0, 5.0]]))
    assert painted.tolist() == [4 * [[2, 2, 2, -1, -1, -1]]]


def test_an_image_by_itself_or_all() -> None:
    one, two = two_images()[0]
    assert one_or_all([one]) is one and one_or_all([one, two]) == [one, two]


@pytest.mark.parametrize(
    "size, max_side, expected",
    [((60, 40), 30, (30, 20)), ((40, 60), 30, (20, 30)), ((900, 1), 448, (448, 1))],
)
def test_a_large_image_is_shown_smaller(
    size: tuple[int, int], max_side: int, expected: tuple[int, int]
) -> None:
    width, height = size
    view = View("full", (1, 2), (0.0, 0.0, float(height), float(width)))
    layout = ImageLayout(2, (view,), ((height, width),))
    shown = display_input(Image.new("RGB", size, RED), layout, max_side)
    assert shown.image.size == expected
    assert shown.layout.image_sizes == (expected[::-1],)
    boxes = shown.layout.boxes()
    assert boxes is not None and boxes[1].tolist() == [
        0,
        expected[0] / 2,
        expected[1],
        expected[0],
    ]
    image = Image.new("RGB", size, RED)
    for limit in (max(size), 2 * max(size)):
        whole = display_input(image, layout, limit)
        assert whole.image is image and whole.layout is layout
    by_default = display_input(Image.new("RGB", (896, 2)), layout)
    assert by_default.image.size == (448, 1)
