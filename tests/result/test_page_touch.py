"""A page on a phone: fingers instead of a mouse, and readers who want no motion."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.helpers.browser import OpenPage
from tests.result.pages import assert_shows, made, Open

PHONE = {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": True}
_MOTION = """
const moving = [];
for (const element of document.querySelectorAll("*")) {
  for (const part of [null, "::before", "::after"]) {
    const style = getComputedStyle(element, part);
    const times = `${style.transitionDuration}, ${style.animationDuration}`;
    const moves = times.split(", ").some((time) => parseFloat(time) > 0);
    if (moves || style.scrollBehavior === "smooth") moving.push(element.className);
  }
}
return moving;
"""


class Finger:
    """A finger on the screen.

    Args:
        page (OpenPage): the page on the screen
    """

    def __init__(self, page: OpenPage) -> None:
        self.page = page

    def _touch(self, kind: str, *point: float) -> None:
        points = [dict(zip("xy", point))] if point else []
        self.page.browser.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
        )

    def _middle(self, selector: str) -> tuple[float, float]:
        x, y = self.page.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]",
            selector,
        )
        return x, y

    def tap(self, selector: str) -> None:
        """Taps an element."""
        self.page.run(
            "document.querySelector(arguments[0]).scrollIntoView({block: 'center'})",
            selector,
        )
        self._touch("touchStart", *self._middle(selector))
        self._touch("touchEnd")
        # The tap becomes a click in a later task.
        self.page.settle()
        self.page.settle()

    def swipe(self, start: str, end: str) -> None:
        """Drags from one element over others to another."""
        (x0, y0), (x1, y1) = self._middle(start), self._middle(end)
        self._touch("touchStart", x0, y0)
        for step in range(1, 11):
            share = step / 10
            self._touch("touchMove", x0 + share * (x1 - x0), y0 + share * (y1 - y0))
        self._touch("touchEnd")
        self.page.settle()


def word(index: int) -> str:
    return f'[data-word="{index}"]'


@pytest.fixture(name="phone")
def _phone(browser: Any) -> Iterator[None]:
    command = browser.execute_cdp_cmd
    command("Emulation.setDeviceMetricsOverride", PHONE)
    command("Emulation.setTouchEmulationEnabled", {"enabled": True})
    yield
    command("Emulation.setTouchEmulationEnabled", {"enabled": False})
    command("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.usefixtures("phone")
def test_tapping_keeps_a_word_and_lets_it_go(show: Open, result: Any) -> None:
    page = show(result.to_html())
    finger = Finger(page)
    taps: list[tuple[int, tuple[int, ...]]] = [(1, (1,)), (3, (3,)), (3, ())]
    for tapped, kept in taps:
        finger.tap(word(tapped))
        assert_shows(page, result, *kept)
    finger.tap("#combine")
    taps = [(1, (1,)), (3, (1, 3)), (1, (3,))]
    for tapped, kept in taps:
        finger.tap(word(tapped))
        assert_shows(page, result, *kept)
    finger.tap("#clear")
    assert_shows(page, result)
    # Advice for a mouse and a keyboard is of no use here.
    assert not page.find(".keys").is_displayed()
    assert page.complaints() == []


@pytest.mark.usefixtures("phone")
def test_swiping_over_words_scrolls_and_keeps_what_is_shown(show: Open) -> None:
    page = show(made(tuple(f"word{index}" for index in range(70))).to_html())
    finger = Finger(page)
    finger.tap(word(2))
    shown = "return [document.documentElement.dataset.shown, scrollY > 100]"
    page.run("scrollTo(0, 0)")
    assert page.run(shown) == ["2", False]
    finger.swipe(word(40), word(0))
    assert page.run(shown) == ["2", True]


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_nothing_moves_for_readers_who_want_no_motion(
    show: Open, result: Any, wish: str
) -> None:
    page = show(result.to_html())
    feature = {"name": "prefers-reduced-motion", "value": wish}
    command = page.browser.execute_cdp_cmd
    command("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        # Elsewhere the bars of the layers grow.
        assert bool(page.run(_MOTION)) == (wish == "no-preference")
    finally:
        command("Emulation.setEmulatedMedia", {"features": []})
