"""A real browser: headless Chromium, as Debian installs it."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
    # The log has no messages of a frame in a process of its own.
    "--disable-features=IsolateSandboxedIframes",
)
# Tests may share their cores with others.
_SECONDS = 60


class Keys:
    """Keys by their codes in the WebDriver protocol."""

    TAB = "\ue004"
    ENTER = "\ue007"
    SHIFT = "\ue008"
    ESCAPE = "\ue00c"
    END, HOME = "\ue010", "\ue011"
    ARROW_LEFT, ARROW_UP, ARROW_RIGHT, ARROW_DOWN = (
        "\ue012",
        "\ue013",
        "\ue014",
        "\ue015",
    )


_NEXT_FRAME = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
_PIXELS = """
const canvas = document.querySelector(`canvas[data-map="${arguments[0]}"]`);
const { width, height } = canvas;
const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
let text = "";
for (let i = 0; i < data.length; i += 8192) {
  text += String.fromCharCode(...data.subarray(i, i + 8192));
}
return [width, height, btoa(text)];
"""


@contextmanager
def started_browser() -> Iterator[Any]:
    """A Chromium; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_page_load_timeout(_SECONDS)
    browser.set_script_timeout(_SECONDS)
    try:
        yield browser
    finally:
        browser.quit()


class OpenPage:
    """A page in a browser, and what a reader does with it.

    Args:
        browser (WebDriver): the browser
        html (str): the document
        path (Path): file to write it to
    """

    def __init__(self, browser: Any, html: str, path: Path) -> None:
        path.write_text(html, encoding="ascii")
        self.browser = browser
        browser.get_log("browser")
        browser.switch_to.default_content()
        browser.get(path.as_uri())
        self.settle()

    def settle(self) -> None:
        """Waits until what was asked for is drawn."""
        self.browser.execute_async_script(_NEXT_FRAME)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script in the page."""
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The first element of a selector."""
        return self.browser.find_element("css selector", selector)

    def word(self, index: int) -> Any:
        """A word's element."""
        return self.find(f'[data-word="{index}"]')

    def actions(self) -> Any:
        """Movements of the mouse and keys."""
        from selenium.webdriver import ActionChains

        return ActionChains(self.browser, duration=20)

    def hover(self, index: int) -> None:
        """Moves the mouse onto a word."""
        self.actions().move_to_element(self.word(index)).perform()
        self.settle()

    def leave(self) -> None:
        """Moves the mouse off the words."""
        self.actions().move_to_element(self.find("h1")).perform()
        self.settle()

    def click(self, index: int, shift: bool = False) -> None:
        """Clicks a word."""
        actions = self.actions()
        if shift:
            actions = actions.key_down(Keys.SHIFT)
        actions = actions.click(self.word(index))
        if shift:
            actions = actions.key_up(Keys.SHIFT)
        actions.perform()
        self.settle()

    def press(self, *keys: str) -> None:
        """Presses keys one after the other."""
        self.actions().send_keys(*keys).perform()
        self.settle()

    def press_shift(self, key: str) -> None:
        """Presses a key together with shift."""
        self.actions().key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()
        self.settle()

    def set(self, name: str, value: float) -> None:
        """Moves a slider."""
        self.run(
            "const slider = document.getElementById(arguments[0]);"
            "slider.value = arguments[1];"
            "slider.dispatchEvent(new Event('input', { bubbles: true }));",
            name,
            value,
        )
        self.settle()

    def pixels(self, name: str = "0:0") -> npt.NDArray[np.uint8]:
        """The pixels of a canvas, ``(height, width, 4)``."""
        self.settle()
        width, height, text = self.run(_PIXELS, name)
        flat = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
        return flat.reshape(height, width, 4)

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        text: str = self.find(selector).text
        return text

    def complaints(self) -> list[str]:
        """What the browser's console says, unless it is about our reading of pixels."""
        messages = [entry["message"] for entry in self.browser.get_log("browser")]
        return [one for one in messages if "willReadFrequently" not in one]
