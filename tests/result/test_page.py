"""The page of a result in a real browser: what it draws, compared with the arrays."""

import base64
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.page import page_of
from captum_dexar.visualization.page.rendering import FAINTEST
from PIL import Image
from tests.helpers.browser import Keys, OpenPage

# Height and width within the limits of a canvas, so that its pixels are the image's.
SIZE = (400, 600)
OPACITY = 0.85
FloatArray = npt.NDArray[np.floating[Any]]
Open = Callable[[str], OpenPage]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A smooth picture with grain, as hard to compress as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    grain = generator.normal(0, 4, (*size, 3))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def made(
    texts: tuple[str, ...] = ("a", "violet", "circle", "."),
    layout: ImageLayout | None = None,
    **changes: Any,
) -> VLMAttributionResult:
    """One token a word on a grid of 4 x 6, which leaves 50 columns unseen."""
    if layout is None:
        view = View("full", (4, 6), (0.0, 25.0, 400.0, 575.0))
        layout = ImageLayout(24, (view,), (SIZE,))
    columns = len(layout.placed)
    generator = torch.Generator().manual_seed(len(texts))
    number = len(texts)
    layer_attr = torch.rand(number, 3, columns, generator=generator)
    token_attr = layer_attr.sum(1)
    fields: dict[str, Any] = {
        "output_tokens": list(texts),
        "answer": " ".join(texts),
        "target_ids": torch.arange(number),
        "token_attr": token_attr,
        "seq_attr": torch.rand(columns, generator=generator),
        "token_weights": torch.linspace(0, 2, number),
        "token_log_probs": -torch.rand(number, generator=generator),
        "layer_attr": layer_attr,
        "layer_indices": [0, 1, 4],
        "layout": layout,
        "images": [
            picture(size, index) for index, size in enumerate(layout.image_sizes or ())
        ],
        "method": "Layer DEX-AR",
    }
    return VLMAttributionResult(**{**fields, **changes})


def signed(**changes: Any) -> VLMAttributionResult:
    generator = torch.Generator().manual_seed(1)
    attr = torch.randn(4, 24, generator=generator)
    fields: dict[str, Any] = {
        "token_attr": attr,
        "seq_attr": attr.sum(0),
        "token_weights": None,
        "layer_attr": None,
        "layer_indices": None,
        "method": "Integrated Gradients",
    }
    return made(**{**fields, **changes})


@pytest.fixture(name="show")
def _show(browser: Any, tmp_path: Path) -> Open:
    number = itertools.count()
    return lambda html: OpenPage(browser, html, tmp_path / f"page{next(number)}.html")


@pytest.fixture(name="result", scope="module")
def _result() -> VLMAttributionResult:
    return made()


def strength_of(result: VLMAttributionResult, *words: int) -> float:
    assert result.token_weights is not None
    weight = max(float(result.token_weights[word]) for word in words)
    share = weight / float(result.token_weights.max())
    return float(FAINTEST + (1 - FAINTEST) * np.sqrt(share))


def heat_of(pixels: npt.NDArray[np.uint8], opacity: float = OPACITY) -> FloatArray:
    """The absolute values of the map that was drawn, read from its opacity."""
    heat: FloatArray = (pixels[..., 3] / (255 * opacity)) ** (1 / 0.6)
    return heat


def assert_drawn(
    pixels: npt.NDArray[np.uint8],
    heat: Any,
    opacity: float = OPACITY,
    unseen: Any = None,
    is_signed: bool = False,
) -> None:
    """The canvas has this map, in the colours and the opacity that belong to it."""
    expected = np.asarray(heat, dtype=np.float64)
    seen = np.ones(expected.shape, bool) if unseen is None else ~np.asarray(unseen)
    assert pixels.shape[:2] == expected.shape
    drawn = heat_of(pixels, opacity)
    assert np.abs(drawn - np.abs(expected))[seen].max() < 0.015
    shares = 0.5 + 0.5 * expected if is_signed else expected
    name = "RdBu_r" if is_signed else "inferno"
    colours = matplotlib.colormaps[name](shares)[..., :3]
    # Faint colours are stored with fewer digits.
    opaque = seen & (pixels[..., 3] > 60)
    assert opaque.any()
    assert np.abs(pixels[..., :3] / 255 - colours)[opaque].max() < 0.03
    if not seen.all():
        assert (pixels[~seen][:, 3] == 200).all()
        assert len(np.unique(pixels[~seen], axis=0)) == 2


def assert_shows(page: OpenPage, result: VLMAttributionResult, *words: int) -> None:
    """The canvas has the map of these words, or of the whole answer."""
    heat = result.pixel_map(list(words) or None)
    opacity = OPACITY * (strength_of(result, *words) if words else 1)
    assert_drawn(page.pixels(), heat, opacity, result.unseen_pixels)


def test_pointing_shows_a_words_map(show: Open, result: Any) -> None:
    page = show(result.to_html(prompt="What is it?"))
    assert_shows(page, result)
    for word in (3, 1):
        page.hover(word)
        assert_shows(page, result, word)
    assert "violet" in page.text("#readout")
    weight = float(result.token_weights[1])
    assert f"{weight:.3g} of at most 2" in page.text("#numbers")
    probability = 100 * float(result.token_log_probs[1].exp())
    assert f"{probability:.1f} %" in page.text("#numbers")
    page.leave()
    assert_shows(page, result)
    assert page.text("#chosen") == "The whole answer"
    assert page.text(".prompt") == "What is it?"
    assert page.complaints() == []


def test_clicking_keeps_and_combines(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.click(1)
    page.leave()
    assert_shows(page, result, 1)
    page.hover(3)
    assert_shows(page, result, 3)
    page.click(3, shift=True)
    page.leave()
    assert_shows(page, result, 1, 3)
    chosen = page.browser.find_elements("css selector", '[aria-selected="true"]')
    assert [one.text for one in chosen] == ["violet", "."]
    page.click(1, shift=True)
    page.leave()
    assert_shows(page, result, 3)
    page.click(3)
    page.leave()
    assert_shows(page, result)
    page.click(2)
    page.find("#clear").click()
    page.leave()
    assert_shows(page, result)
    assert page.complaints() == []


def test_dragging_combines(show: Open, result: Any) -> None:
    page = show(result.to_html())
    actions = page.actions().click_and_hold(page.word(2))
    actions.move_to_element(page.word(1)).move_to_element(page.word(0)).release()
    actions.perform()
    page.leave()
    assert_shows(page, result, 0, 1, 2)
    page.press(Keys.ESCAPE)
    assert_shows(page, result)


def test_all_of_it_by_keyboard(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.leave()
    page.run("document.activeElement.blur()")
    order = []
    for _ in range(3):
        page.press(Keys.TAB)
        order.append(page.run("return document.activeElement.dataset.word"))
        if order[-1] == "0":
            break
    assert order[-1] == "0", order
    assert_shows(page, result, 0)
    page.press(Keys.ARROW_RIGHT)
    assert_shows(page, result, 1)
    page.press(Keys.END)
    assert_shows(page, result, 3)
    page.press(Keys.ARROW_LEFT, Keys.ENTER, Keys.HOME)
    assert_shows(page, result, 0)
    page.press_shift(Keys.ENTER)
    page.press(Keys.TAB)
    assert_shows(page, result, 0, 2)
    page.press_shift(Keys.TAB)
    page.press(Keys.ESCAPE)
    page.press(Keys.TAB)
    assert_shows(page, result)
    # One stop for the whole answer, where the reader left it.
    one_stop = '[data-word][tabindex="0"]'
    for word in (0, 2):
        stops = page.browser.find_elements("css selector", one_stop)
        assert [stop.get_attribute("data-word") for stop in stops] == [str(word)]
        page.click(2)
    assert page.complaints() == []


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
    page.press(Keys.ARROW_LEFT)
    heat = result.on_pixels(maps[1] / maps.max())
    assert_drawn(page.pixels(), heat, opacity, result.unseen_pixels)


@pytest.mark.parametrize("make", [made, signed], ids=["plain", "signed"])
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


def test_words_are_combined_without_a_keyboard(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.find("#combine").click()
    page.click(1)
    page.click(3)
    page.leave()
    assert_shows(page, result, 1, 3)
    page.click(1)
    page.leave()
    assert_shows(page, result, 3)


def test_arrows_go_from_line_to_line(show: Open) -> None:
    texts = tuple("abcdefghijklmnopqrstuvwxyz" * 2)
    page = show(made(texts).to_html())
    focused = "return Number(document.activeElement.dataset.word)"
    page.click(3)
    page.press(Keys.ARROW_DOWN)
    below = page.run(focused)
    first, second = page.word(3).rect, page.word(below).rect
    assert first["y"] + first["height"] / 2 < second["y"] < first["y"] + 60
    assert abs(first["x"] - second["x"]) < 30
    page.press(Keys.ARROW_UP)
    assert page.run(focused) == 3
    page.press(Keys.ARROW_UP)
    assert page.run(focused) == 3


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


def test_words_without_evidence_are_said_so(show: Open) -> None:
    attr = torch.rand(4, 24)
    attr[2] = 0
    result = made(token_attr=attr)
    page = show(result.to_html())
    blind = page.browser.find_elements("css selector", "[data-blind]")
    assert [one.text for one in blind] == ["a", "circle"]
    page.hover(0)
    assert "supports this no more than the text" in page.text("#remark")
    page.hover(2)
    assert "No visual evidence" in page.text("#remark")
    assert "zero map" in page.text(".verdict")
    assert not page.pixels()[~result.unseen_pixels.numpy()][:, 3].any()
    page.hover(3)
    assert "No visual evidence" not in page.text("#remark")


def test_an_answer_without_words(show: Open) -> None:
    special = torch.ones(4, dtype=torch.bool)
    result = made(special_tokens=special, answer="")
    page = show(result.to_html())
    assert_drawn(page.pixels(), result.pixel_map(), OPACITY, result.unseen_pixels)
    assert "(no words)" in page.text("main")
    assert page.complaints() == []


def test_nothing_is_fetched(show: Open, result: Any) -> None:
    """Neither does the page ask for anything, nor could it."""
    page = show(result.to_html())
    page.click(1)
    entries = page.run(
        "return performance.getEntriesByType('resource').map((one) => one.name)"
    )
    assert all(name.startswith("data:") for name in entries)
    answer = page.browser.execute_async_script(
        "const [done] = arguments;"
        "fetch('http://127.0.0.1:9/').then(() => done('got it'), () => {});"
        "document.addEventListener('securitypolicyviolation',"
        " (event) => done(event.effectiveDirective));"
    )
    assert answer == "connect-src"
    for markup in ("<img src=x onerror=window.hit=1>", "<script>window.hit=1</script>"):
        page.run("document.querySelector('h1').innerHTML = arguments[0]", markup)
    page.settle()
    assert page.run("return window.hit") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_everybody_can_read_it(show: Open, scheme: str, width: int) -> None:
    """Axe finds nothing: contrast, labels, roles."""
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    page = show(made().to_html(prompt="What is it?"))
    browser = page.browser
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for word in (None, 2):
            if word is not None:
                page.click(word)
            report = axe.run(browser)
            assert report["violations"] == []
            assert "color-contrast" in {one["id"] for one in report["passes"]}
        overflow = "return document.documentElement.scrollWidth - innerWidth"
        assert page.run(overflow) <= 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_light_and_dark_by_choice(show: Open, result: Any) -> None:
    page = show(result.to_html())
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = page.run(ground)
    page.find("#theme").click()
    assert page.run(ground) != before
    page.find("#theme").click()
    assert page.run(ground) == before


def test_two_results_in_a_notebook_work_apart(
    browser: Any, tmp_path: Path, result: Any
) -> None:
    """They leave nothing in the document around but their frames."""
    other = signed()
    cells = f"{result._repr_html_()}<h1>between</h1>{other._repr_html_()}"
    html = f"<!DOCTYPE html><title>notebook</title><body>{cells}"
    page = OpenPage(browser, html, tmp_path / "notebook.html")
    frames = browser.find_elements("css selector", "iframe")
    assert len(frames) == 2
    for _ in range(200):
        heights = [frame.size["height"] for frame in frames]
        if all(height not in (0, 640) for height in heights):
            break
        page.settle()
    for frame, height in zip(frames, heights):
        assert frame.get_attribute("sandbox") == "allow-scripts"
        browser.switch_to.frame(frame)
        body = page.run("return document.body.getBoundingClientRect().height")
        assert height == np.ceil(body) > 200
        browser.switch_to.default_content()
    assert not any(one.is_displayed() for one in page_images(page))
    assert page.run("return document.styleSheets.length") == 0
    assert page.run("return document.querySelectorAll('[id], [class]').length") == 0
    browser.switch_to.frame(frames[0])
    page.click(1)
    page.leave()
    assert_shows(page, result, 1)
    browser.switch_to.default_content()
    browser.switch_to.frame(frames[1])
    page.settle()
    expected = other.pixel_map()
    assert_drawn(page.pixels(), expected, OPACITY, other.unseen_pixels, True)
    browser.switch_to.default_content()
    assert page.complaints() == []


def page_images(page: OpenPage) -> list[Any]:
    images: list[Any] = page.browser.find_elements("css selector", "img")
    return images


@pytest.mark.parametrize("in_notebook", [False, True])
def test_a_picture_where_no_script_runs(
    browser: Any, tmp_path: Path, result: Any, in_notebook: bool
) -> None:
    html = result._repr_html_() if in_notebook else result.to_html()
    switch = "Emulation.setScriptExecutionDisabled"
    browser.execute_cdp_cmd(switch, {"value": True})
    try:
        path = tmp_path / "still.html"
        path.write_text(html)
        browser.get(path.as_uri())
        shown = [
            image
            for image in browser.find_elements("css selector", "img")
            if image.is_displayed()
        ]
        assert len(shown) == 1
        assert shown[0].size["width"] == 480
        assert not any(
            frame.is_displayed()
            for frame in browser.find_elements("css selector", "iframe")
        )
        assert "violet" in browser.find_element("css selector", "body").text
        source = shown[0].get_attribute("src")
    finally:
        browser.execute_cdp_cmd(switch, {"value": False})
    drawn = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    # The map is on it: the hottest places are the brightest.
    pixels = np.asarray(drawn.convert("RGB").resize(SIZE[::-1])).astype(float)
    heat = result.pixel_map().numpy()
    assert pixels[heat > 0.95].mean() > pixels[(heat > 0) & (heat < 0.2)].mean()


CASES: dict[str, Callable[[], VLMAttributionResult]] = {
    "plain": made,
    "signed": signed,
    "grey image": lambda: made(images=[picture(SIZE).convert("L")]),
    "transparent image": lambda: made(images=[picture(SIZE).convert("RGBA")]),
    "odd tokens": lambda: made(("\ud800", "\x00", "</script>", "\u202e")),
    "unknown image": lambda: made(
        layout=ImageLayout(6, (View("full", (2, 3), None),)), images=[]
    ),
    "half precision": lambda: made(token_weights=torch.rand(4).half()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_result_has_the_same_page(name: str, tmp_path: Path) -> None:
    """Byte for byte."""
    result = CASES[name]()
    html = result.to_html(prompt="why?")
    assert html == result.to_html(prompt="why?")
    result.save(tmp_path / "result.dexar")
    loaded = VLMAttributionResult.load(tmp_path / "result.dexar")
    assert loaded.to_html(prompt="why?") == html
    assert loaded._repr_html_() == result._repr_html_()


def test_long_answers_stay_small(show: Open) -> None:
    """512 words on 1,024 image tokens, with layers."""
    view = View("full", (32, 32), (0.0, 0.0, 1024.0, 768.0))
    layout = ImageLayout(1024, (view,), ((1024, 768),))
    texts = tuple(f"word{index}" for index in range(512))
    layer_attr = torch.rand(512, 24, 1024)
    result = made(
        texts,
        layout,
        layer_attr=layer_attr,
        layer_indices=list(range(24)),
        token_attr=layer_attr.sum(1),
    )
    html = result.to_html()
    assert len(html) < 3_000_000
    page = show(html)
    page.click(500)
    page.leave()
    heat = torch.nn.functional.interpolate(
        result.pixel_map(500)[None, None], (768, 576), mode="bilinear"
    )[0, 0]
    drawn = heat_of(page.pixels(), OPACITY * strength_of(result, 500))
    assert float((torch.from_numpy(drawn) - heat).abs().mean()) < 0.01
    assert page.complaints() == []


def test_a_photograph_and_a_paragraph_are_small() -> None:
    view = View("full", (24, 24), (0.0, 0.0, 1024.0, 1024.0))
    layout = ImageLayout(576, (view,), ((1024, 1024),))
    texts = tuple(f"word{index}" for index in range(64))
    layer_attr = torch.rand(64, 32, 576)
    result = made(texts, layout, layer_attr=layer_attr, layer_indices=list(range(32)))
    assert len(result.to_html()) < 1_000_000


def test_layers_of_long_answers_are_coarser_or_left_out(show: Open) -> None:
    view = View("full", (30, 30), (0.0, 0.0, 400.0, 600.0))
    layout = ImageLayout(900, (view,), (SIZE,))
    texts = tuple(f"word{index}" for index in range(40))
    for num_layers, grid in ((4, (30, 30)), (16, (15, 15)), (300, None)):
        layer_attr = torch.rand(40, num_layers, 900)
        result: Any = made(
            texts, layout, layer_attr=layer_attr, layer_indices=list(range(num_layers))
        )
        layers: Any = page_of({"": result}).results[0].layers
        expected = layer_attr.double().sum(-1)
        np.testing.assert_allclose(layers.strengths, expected)
        assert (layers.maps is None) == (grid is None)
        if grid is not None:
            assert layers.places[0].grid == grid
            means = torch.nn.functional.avg_pool2d(
                layer_attr.double().view(-1, 1, 30, 30), 30 // grid[0]
            )
            np.testing.assert_allclose(layers.maps.ravel(), means.ravel(), rtol=1e-6)


@pytest.mark.parametrize("field", ["token_attr", "seq_attr", "token_weights"])
def test_what_is_not_finite_is_refused(field: str) -> None:
    values = getattr(made(), field).clone()
    values[..., -1] = float("nan")
    with pytest.raises(ValueError, match="attributions that are not finite"):
        made(**{field: values}).to_html()


def test_separators_are_the_answers_own() -> None:
    texts = ("One", "two", "红", "色", "odd")
    page = page_of({"": made(texts, answer="One\n\ntwo  红色 very odd")})
    assert [word.before for word in page.words] == ["", "\n\n", "  ", "", " "]
