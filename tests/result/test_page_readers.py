"""A page for every reader: colours, paper, notebooks, and viewers without scripts."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captum_dexar import Comparison
from PIL import Image
from tests.helpers.browser import OpenPage
from tests.result.pages import (
    assert_drawn,
    assert_shows,
    made,
    OPACITY,
    Open,
    signed,
    SIZE,
)


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
    assert page.complaints() == []
    # A frame's complaints would be heard.
    page.run("console.error('from within')")
    (heard,) = page.complaints()
    assert "from within" in heard
    browser.switch_to.default_content()


def test_a_cell_out_of_sight_keeps_its_height(
    browser: Any, tmp_path: Path, result: Any
) -> None:
    """Notebooks that draw only the cells in sight would jump otherwise."""
    html = f"<!DOCTYPE html><div hidden>{result._repr_html_()}</div><h1>below</h1>"
    page = OpenPage(browser, html, tmp_path / "hidden.html")
    frame = page.find("iframe")

    def height(shown: bool) -> int:
        page.run("document.querySelector('div').hidden = arguments[0]", not shown)
        browser.switch_to.frame(frame)
        told = browser.execute_async_script(
            "const [done] = arguments;"
            "const body = document.body.getBoundingClientRect();"
            "setTimeout(() => done(body.height), 500)"
        )
        browser.switch_to.default_content()
        assert (told > 0) == shown
        return int(page.run("return parseInt(arguments[0].style.height)", frame))

    assert height(shown=False) == 640
    within = height(shown=True)
    assert within not in (0, 640)
    assert height(shown=False) == within


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


@pytest.fixture(name="emulate")
def _emulate(browser: Any) -> Iterator[Callable[..., None]]:
    """Another medium, preferences and size of the window, until the test ends."""

    def emulate(media: str, width: int, **features: str) -> None:
        given = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in features.items()
        ]
        setting = {"media": media, "features": given}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", setting)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield emulate
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    setting = {"media": "", "features": []}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", setting)


LONG = made(tuple(f"word{index}" for index in range(400)))


@pytest.mark.parametrize("width", [680, 1000], ids=["portrait", "landscape"])
@pytest.mark.parametrize("results", [1, 2])
def test_all_of_it_is_on_paper(
    show: Open, emulate: Callable[..., None], width: int, results: int
) -> None:
    """Nothing is cut off: neither at an edge nor by a box that could be scrolled."""
    methods = {str(index): LONG for index in range(results)}
    seconds = dict.fromkeys(methods, 1.0)
    page = show(Comparison(methods, seconds).to_html("Why?\n" * 40))
    page.find("#theme").click()
    emulate("print", width)
    page.settle()
    cut = page.run(
        "return [...document.querySelectorAll('body, body *')].filter((one) =>"
        " one.checkVisibility() && getComputedStyle(one).overflow !== 'visible'"
        " && one.scrollHeight > one.clientHeight + 1).map((one) => one.className)"
    )
    assert cut == []
    outside = page.run(
        "return [...document.querySelectorAll('main, main *')].filter((one) => {"
        " const box = one.getBoundingClientRect();"
        " return box.left < -0.5 || box.right > innerWidth + 0.5;"
        "}).map((one) => one.className)"
    )
    assert outside == []
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    for selector in ("canvas", ".depth", ".note", ".answer", ".readout", ".help"):
        if selector != ".note" or results > 1:
            assert page.find(selector).is_displayed(), selector
    assert not page.find(".controls").is_displayed()


@pytest.mark.parametrize("results", [1, 2])
def test_a_cell_is_on_paper_as_far_as_on_the_screen(
    browser: Any,
    tmp_path: Path,
    emulate: Callable[..., None],
    result: Any,
    results: int,
) -> None:
    """A printed frame keeps its height, however narrow the sheet is."""
    methods = {str(index): result for index in range(results)}
    cell = Comparison(methods, dict.fromkeys(methods, 1.0))._repr_html_()
    page = OpenPage(browser, f"<!DOCTYPE html>{cell}", tmp_path / "cell.html")
    browser.switch_to.frame(page.find("iframe"))
    body = "return document.body.getBoundingClientRect().height"
    emulate("", 1150)
    page.settle()
    on_screen = page.run(body)
    emulate("print", 560)
    page.settle()
    assert 0 < page.run(body) <= on_screen
    answer = page.run(
        "return document.querySelector('.answer').getBoundingClientRect().bottom"
    )
    assert answer < on_screen / 2
    browser.switch_to.default_content()


def test_it_is_read_in_the_readers_own_colours(
    show: Open, emulate: Callable[..., None], result: Any
) -> None:
    """Forced colours take backgrounds and shadows away: lines say the same."""
    page = show(result.to_html())
    emulate("", 1280, forced_colors="active")
    page.click(1)
    page.hover(2)
    style = (
        "const style = getComputedStyle(arguments[0], arguments[1]);"
        "return [style.outlineStyle, style.borderBottomWidth, style.backgroundColor]"
    )
    assert page.run(style, page.word(1), None)[0] == "solid"
    assert page.run(style, page.word(2), None)[0] == "dashed"
    assert page.run(style, page.word(0), None)[0] == "none"
    widths = [page.run(style, page.word(word), None)[1] for word in (0, 3)]
    assert widths == ["0px", "5px"]
    bar = page.find(".layers button")
    ground = page.run(style, page.find("body"), None)[2]
    assert page.run(style, bar, "::before")[2] not in (ground, "rgba(0, 0, 0, 0)")
