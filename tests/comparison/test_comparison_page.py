"""Several results on one page, which move together."""

from pathlib import Path
from typing import Any

import pytest
from captum_dexar import Comparison, VLMAttributionResult
from tests.helpers.browser import OpenPage
from tests.result.pages import assert_drawn, made, OPACITY, signed, strength_of


@pytest.fixture(name="comparison", scope="module")
def _comparison() -> Comparison:
    results = {"<b>first</b>": made(), "second": signed()}
    return Comparison(results, {"<b>first</b>": 1.5, "second": 0.025})


def test_results_move_together(
    browser: Any, tmp_path: Path, comparison: Comparison
) -> None:
    page = OpenPage(browser, comparison.to_html("why?"), tmp_path / "page.html")
    first, second = comparison.results.values()
    headings = browser.find_elements("css selector", ".heading")
    assert [one.text.split("\n") for one in headings] == [
        ["<b>first</b>", "1.5 s"],
        ["second", "25 ms"],
    ]
    for word in (None, 2):
        if word is not None:
            page.hover(word)
        strength = 1 if word is None else strength_of(first, word)
        for number, result, opacity in (
            (0, first, OPACITY * strength),
            (1, second, OPACITY),
        ):
            assert_drawn(
                page.pixels(f"{number}:0"),
                result.pixel_map(word),
                opacity,
                result.unseen_pixels,
                result.is_signed,
            )
    verdicts = browser.find_elements("css selector", ".verdict")
    assert [one.text.strip() for one in verdicts] == ["weight 1.33", ""]
    assert page.complaints() == []


def test_everybody_can_read_it(
    browser: Any, tmp_path: Path, comparison: Comparison
) -> None:
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    page = OpenPage(browser, comparison.to_html(), tmp_path / "page.html")
    page.click(1)
    assert axe.run(browser)["violations"] == []


def test_words_are_tinted_by_the_first_weights() -> None:
    page = Comparison({"a": signed(), "b": made()}, {"a": 1, "b": 1}).to_html()
    tints = [page.count(f'data-tint="{tint}"') for tint in (0, 5, 11, 16)]
    # Once more in the style.
    assert tints == [1, 2, 2, 2]
    assert page.count("data-blind>") == 1
    assert "its weight by <bdi>b</bdi>." in page


def test_an_image_is_compressed_once(comparison: Comparison) -> None:
    """And the picture for readers without scripts."""
    assert comparison.to_html().count("data:image/webp;base64,") == 2


def test_results_of_different_answers_are_refused() -> None:
    def refused(other: VLMAttributionResult, message: str) -> None:
        comparison = Comparison({"one": made(), "two": other}, {"one": 1, "two": 1})
        with pytest.raises(ValueError, match=message):
            comparison.to_html()

    ids = made().target_ids + 1
    refused(made(target_ids=ids), "'two' explains another answer")
    layout = made().layout.resized(((200, 300),))
    refused(made(layout=layout), r"'two' explains images of the sizes \(\(200, 300\)")
    with pytest.raises(ValueError, match="no result to show"):
        Comparison({}, {}).to_html()


def test_a_notebook_shows_the_same(comparison: Comparison) -> None:
    cell = comparison._repr_html_()
    assert cell.count("<iframe") == 1
    assert "&lt;b&gt;first" not in cell and "&amp;lt;b&amp;gt;first" in cell
