"""The maps of a page in a real browser: what is drawn, compared with the arrays."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from tests.helpers.browser import Keys
from tests.result.pages import (
    assert_drawn,
    assert_shows,
    heat_of,
    made,
    OPACITY,
    Open,
    signed,
    SIZE,
    strength_of,
)


def test_opacity_and_threshold(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.set("opacity", 40)
    assert_drawn(page.pixels(), result.pixel_map(), 0.4, result.unseen_pixels)
    page.set("threshold", 50)
    heat = result.pixel_map().numpy()
    kept = np.where(heat >= 0.5, heat, 0)
    clear = (np.abs(heat - 0.5) > 0.01) & ~result.unseen_pixels.numpy()
    assert np.abs(heat_of(page.pixels(), 0.4) - kept)[clear].max() < 0.015
    page.set("opacity", 0)
    assert not page.pixels()[~result.unseen_pixels.numpy()][:, 3].any()


def test_one_scale_for_all_words(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.find("[value=shared]").click()
    page.find("#fade").click()
    values = result.token_attr.double()
    low, spread = values.min(), values.max() - values.min()
    for words in ([1], [0, 2]):
        page.press(Keys.ESCAPE)
        for word in words:
            page.click(word, shift=True)
        page.leave()
        cells = ((values[words].mean(0) - low) / spread).float().view(4, 6)
        heat = result.on_pixels(cells)
        assert_drawn(page.pixels(), heat, OPACITY, result.unseen_pixels)


def test_layers(show: Open, result: Any) -> None:
    """The strip shows each layer's share; a layer's map is that of plot_layers."""
    page = show(result.to_html())
    page.click(2)
    page.leave()
    sizes = result.layer_attr[2].abs().sum(1)
    buttons = page.browser.find_elements("css selector", "[data-layer]")
    names = [button.get_attribute("aria-label") for button in buttons]
    shares = [f"{round(float(100 * s / sizes.sum()), 1):g} %" for s in sizes]
    assert names == [f"Layer {i}: {s}" for i, s in zip((0, 1, 4), shares)]
    buttons[2].click()
    page.leave()
    maps = result.layer_maps[2]
    heat = result.on_pixels(maps[2] / maps.max())
    opacity = OPACITY * strength_of(result, 2)
    assert_drawn(page.pixels(), heat, opacity, result.unseen_pixels)
    assert "Layer 4" in page.text(".layer-note")
    for key, layer in ((Keys.ARROW_LEFT, 1), (Keys.HOME, 0), (Keys.END, 2)):
        page.press(key)
        heat = result.on_pixels(maps[layer] / maps.max())
        assert_drawn(page.pixels(), heat, opacity, result.unseen_pixels)


def test_pointing_at_a_layer_shows_it_while_another_is_kept(
    show: Open, result: Any
) -> None:
    page = show(result.to_html())
    page.click(2)
    buttons = page.browser.find_elements("css selector", "[data-layer]")
    buttons[0].click()
    maps = result.layer_maps[2]
    opacity = OPACITY * strength_of(result, 2)
    for target, layer in ((buttons[2], 2), (page.find("h1"), 0)):
        page.actions().move_to_element(target).perform()
        page.settle()
        heat = result.on_pixels(maps[layer] / maps.max())
        assert_drawn(page.pixels(), heat, opacity, result.unseen_pixels)
        assert page.text(".layer-note").startswith(f"Layer {(0, 1, 4)[layer]}:")


def test_a_layer_is_kept_until_it_is_chosen_again(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.click(2)
    button = page.find("[data-layer]")
    for pressed in ("true", "false"):
        button.click()
        page.leave()
        assert button.get_attribute("aria-pressed") == pressed
    assert_shows(page, result, 2)
    button.click()
    page.press(Keys.ESCAPE)
    page.leave()
    assert_shows(page, result)
    assert page.text(".layer-note") == ""


def of_cells(cells: torch.Tensor) -> Any:
    """A result whose words all have a map of these cells, ``(rows, columns)``."""
    grid = cells.shape[0], cells.shape[1]
    view = View("full", grid, (0.0, 0.0, 400.0, 600.0))
    return made(
        layout=ImageLayout(cells.numel(), (view,), (SIZE,)),
        token_attr=cells.flatten().repeat(4, 1),
        seq_attr=cells.flatten(),
        layer_attr=None,
        layer_indices=None,
    )


def cup() -> Any:
    """One region that is only connected at its bottom, and another one."""
    cells = torch.zeros(9, 14)
    cells[1:6, [2, 8]] = 1.0
    cells[5, 2:9] = 1.0
    cells[4, 12] = 0.9
    return of_cells(cells)


def ten_spots() -> Any:
    """More regions than are outlined, each of another size."""
    cells = torch.zeros(10, 17)
    cells[2, 2:15:3] = torch.linspace(0.7, 0.82, 5)
    cells[7, 2:15:3] = torch.linspace(0.85, 1.0, 5)
    return of_cells(cells)


@pytest.mark.parametrize("make", [made, signed, cup, ten_spots])
def test_regions_are_outlined(show: Open, make: Callable[[], Any]) -> None:
    """Boxes around connected parts, with their shares, as scikit-image finds them."""
    measure = pytest.importorskip("skimage.measure")
    result = make()
    page = show(result.to_html())
    page.click(2)
    page.leave()
    page.set("threshold", 60)
    plain = page.pixels()
    page.find("#boxes").click()
    page.settle()
    outlined = page.pixels()
    heat = result.pixel_map(2).numpy().astype(float)
    boxes = [
        (np.abs(heat)[region.slice].T[region.image.T].sum(), region.bbox)
        for sign in (1, -1)
        for region in measure.regionprops(
            measure.label(sign * heat > 0.6, connectivity=2)
        )
    ]
    boxes.sort(reverse=True)
    assert len(boxes) > 1
    shares = [round(100 * size / np.abs(heat).sum(), 1) for size, _ in boxes[:8]]
    shown = re.findall(r"([\d.]+) %", page.text(".verdict"))
    np.testing.assert_allclose(list(map(float, shown)), shares, atol=0.2)
    changed = (outlined != plain).any(-1)
    for _, (top, left, bottom, right) in boxes[:8]:
        assert changed[top : bottom - 1, left].all()
        assert changed[bottom - 1, left : right - 1].all()


def test_signed_maps_have_two_colours(show: Open) -> None:
    result = signed()
    page = show(result.to_html())
    page.click(1)
    page.leave()
    assert_drawn(
        page.pixels(), result.pixel_map(1), OPACITY, result.unseen_pixels, True
    )
    assert "lowered it" in page.text(".help")
    assert "weight" not in page.text("main")


def test_tiles_are_composed_as_in_the_result(show: Open) -> None:
    views = (
        View("tile", (2, 2), (0.0, 0.0, 200.0, 300.0), 0),
        View("tile", (2, 2), (200.0, 300.0, 400.0, 600.0), 4),
        View("global", (2, 3), (0.0, 0.0, 400.0, 600.0), 8),
    )
    result = made(layout=ImageLayout(14, views, (SIZE,)))
    page = show(result.to_html())
    page.click(1)
    page.leave()
    plain = page.pixels()
    assert_drawn(plain, result.pixel_map(1), OPACITY * strength_of(result, 1))
    page.find("#views").click()
    outlined = page.pixels()
    assert (outlined[200, 310] != plain[200, 310]).any()
    assert (outlined[100, 150] == plain[100, 150]).all()


def test_several_images_share_one_scale(show: Open) -> None:
    sizes = ((400, 600), (600, 300))
    views = (
        View("full", (2, 3), (0.0, 0.0, 400.0, 600.0), 0, image=0),
        View("full", (4, 2), (0.0, 0.0, 600.0, 300.0), 6, image=1),
    )
    result = made(layout=ImageLayout(14, views, sizes))
    page = show(result.to_html())
    for words in ((), (2,)):
        if words:
            page.click(2)
            page.leave()
        opacity = OPACITY * (strength_of(result, *words) if words else 1)
        for image in range(2):
            heat = result.pixel_map(list(words) or None, image)
            assert_drawn(page.pixels(f"0:{image}"), heat, opacity)


def test_segments(show: Open) -> None:
    """Segments of any shape, which overlap, with pixels of none."""
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, 50:200, 100:400] = True
    masks[1, 150:300, 300:550] = True
    masks[2, 350:, :200] = True
    layout = SegmentLayout.of_masks(masks, ["one", "two", "three"], SIZE)
    result = made(layout=layout, layer_attr=None, layer_indices=None)
    page = show(result.to_html())
    page.click(3)
    page.leave()
    assert_drawn(page.pixels(), result.pixel_map(3), OPACITY, result.unseen_pixels)
    assert page.complaints() == []


def test_unknown_images_are_grids_alone(show: Open) -> None:
    layout = ImageLayout(6, (View("full", (2, 3), None),))
    result = made(layout=layout)
    page = show(result.to_html())
    assert not page.browser.find_elements("css selector", "img")
    page.click(3)
    page.leave()
    pixels = page.pixels()
    assert pixels.shape == (320, 480, 4)
    cells = result.token_map_of(3).repeat_interleave(160, 0).repeat_interleave(160, 1)
    assert_drawn(pixels, cells)
