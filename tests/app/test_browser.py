"""The page in a real browser, from a question to a word's heatmap."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from captum_dexar.app.server import application
from tests.app.page_visitor import served
from tests.app.questions import generated_ids, picture, PROCESSOR, tiny_model
from tests.helpers.browser import OpenPage

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:The map of the whole answer is zero")
_SECONDS = 120
_LOADED = "return performance.getEntriesByType('resource').map((one) => one.name)"


class AppPage(OpenPage):
    """The page of the app in a browser."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.switch_to.default_content()
        browser.get_log("browser")
        browser.get(address)
        self.wait(lambda: self.button("Ask").is_enabled())

    def wait(self, condition: Callable[[], Any]) -> Any:
        """The first true value of a condition."""
        from selenium.common.exceptions import WebDriverException

        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            try:
                if value := condition():
                    return value
            except (WebDriverException, StopIteration):
                pass
            time.sleep(0.1)
        raise AssertionError(f"nothing came: {self.text('body')}")

    def button(self, text: str) -> Any:
        """The button with a text."""
        buttons = self.browser.find_elements("tag name", "button")
        return next(one for one in buttons if one.text.strip() == text)

    def enter_explanation(self) -> None:
        """Goes into the frame of the interactive page, once it is there."""
        frame = self.wait(lambda: self.find("iframe"))
        self.wait(lambda: frame.is_displayed())
        self.browser.switch_to.frame(frame)
        self.wait(lambda: self.word(0).is_displayed())

    def errors(self) -> list[str]:
        """Errors in the browser's console."""
        entries = self.browser.get_log("browser")
        return [one["message"] for one in entries if one["level"] == "SEVERE"]


@pytest.fixture(name="page")
def _page(browser: Any) -> Iterator[AppPage]:
    model = tiny_model()
    generated_ids(model)
    settings: dict[str, Any] = {"model_name": "tiny", "scenes": [picture()]}
    with application(model, PROCESSOR, new_tokens=40, **settings) as app:
        with served(app) as address:
            yield AppPage(browser, address)
            # The page is closed before its server.
            browser.switch_to.default_content()
            browser.get("about:blank")


def test_from_a_question_to_a_words_heatmap(page: AppPage) -> None:
    page.button("Ask").click()
    page.wait(lambda: page.find(".dexar-live img"))
    page.wait(lambda: page.button("Stop").is_enabled())
    page.button("Stop").click()
    page.wait(lambda: "Stopped" in page.text("body"))
    page.enter_explanation()
    assert len(page.browser.find_elements("css selector", "[data-word]")) < 40
    whole = page.pixels()
    page.click(1)
    assert not np.array_equal(page.pixels(), whole)
    page.browser.switch_to.default_content()
    frame = page.find("iframe")
    # The frame is as high as the page in it, so that there is one scrollbar.
    assert frame.size["height"] != 640
    address = page.browser.current_url
    loaded = page.run(_LOADED)
    assert loaded and all(one.startswith((address, "data:")) for one in loaded)
    assert page.errors() == []


def test_everybody_can_read_it(page: AppPage) -> None:
    """Axe finds nothing on our page around the frame, light and dark."""
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    page.button("Ask").click()
    page.wait(lambda: page.find("iframe").is_displayed())
    page.wait(lambda: page.button("Explain the same answer").is_enabled())
    for theme in ("light", "dark"):
        page.run(
            "document.body.classList.toggle('dark', arguments[0])", theme == "dark"
        )
        # Colours of buttons fade from one to the other.
        time.sleep(1)
        report = axe.run(page.browser)
        assert report["violations"] == [], theme
        assert "color-contrast" in {one["id"] for one in report["passes"]}
