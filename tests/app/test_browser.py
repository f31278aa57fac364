"""The page in a real browser, from a question to a word's heatmap."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from captum_dexar.app.server import application
from tests.app.app_page import AppPage
from tests.app.page_visitor import served
from tests.app.questions import generated_ids, picture, PROCESSOR, tiny_model

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
# So many that Stop is pressed before the last of them, also on a fast machine.
TOKENS = 200
_LOADED = "return performance.getEntriesByType('resource').map((one) => one.name)"


@pytest.fixture(name="page")
def _page(browser: Any) -> Iterator[AppPage]:
    model = tiny_model()
    generated_ids(model)
    settings: dict[str, Any] = {"model_name": "tiny", "scenes": [picture()]}
    with application(model, PROCESSOR, new_tokens=TOKENS, **settings) as app:
        with served(app) as address:
            yield AppPage(browser, address)
            # The page is closed before its server.
            browser.switch_to.default_content()
            browser.get("about:blank")


def test_from_a_question_to_a_words_heatmap(page: AppPage) -> None:
    page.button("Ask").click()
    page.stop()
    page.enter_explanation()
    assert len(page.browser.find_elements("css selector", "[data-word]")) < TOKENS
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
