"""The page of the app in a real browser."""

import time
from collections.abc import Callable
from typing import Any

from tests.helpers.browser import OpenPage

_SECONDS = 120


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

    def ask(self, question: str) -> None:
        """Asks a question about the image that is chosen."""
        box = self.find("textarea")
        box.clear()
        box.send_keys(question)
        self.button("Ask").click()

    def stop(self) -> None:
        """Presses Stop once words come, and waits until it is said that it stopped."""
        self.wait(lambda: self.find(".dexar-live img"))
        self.wait(lambda: self.button("Stop").is_enabled())
        self.button("Stop").click()
        self.wait(lambda: "Stopped" in self.text("body"))

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
