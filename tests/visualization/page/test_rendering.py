"""The page as a document: one file, in which whatever a model says is text."""

import hashlib
import html as entities
import io
import json
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captum_dexar.visualization.page import (
    encoding,
    frame_html,
    GridPlaces,
    Page,
    page_html,
    PagePicture,
    PageResult,
    PageWord,
    RegionPlaces,
)
from captum_dexar.visualization.page.texts import direction, visible, word_label
from hypothesis import given, settings, strategies
from PIL import Image
from tests.helpers.browser import OpenPage

HOSTILE = (
    "<script>window.hit=1</script>",
    "</script><img src=x onerror=window.hit=1>",
    "</style><style>*{display:none}",
    "<!--",
    "<!--<script ",
    "]]>",
    "\"'`${window.hit=1}`",
    "' onmouseover='window.hit=1",
    "&lt;b&gt;&amp;",
    "{{ 7 * 7 }}{% raw %}",
    "\u202eabc\u202d\u2066",
    "שלום",
    "👩‍🔬🏳️‍🌈",
    "x" * 10_000,
    "null\x00byte",
    "\x1b[31mred\x1b]8;;http://x\x07",
    "\u2028\u2029\ufeff\ufffe",
    "\ud800",
    "javascript:window.hit=1",
    "\r\n",
    "",
)


def page_of(
    texts: tuple[str, ...] = ("a", "cat"),
    prompt: str | None = "why?",
    name: str = "method",
    note: str = "note",
) -> Page:
    image = Image.new("RGB", (60, 40), "green")
    values = np.linspace(0, 1, (len(texts) + 1) * 6).reshape(-1, 6)
    result = PageResult(
        name=name,
        note=note,
        signed=False,
        maps=values,
        places=[GridPlaces((2, 3), (0, 0, 40, 60), [(0, 0, 40, 60)])],
        weights=[1.0] * len(texts),
        has_evidence=[True] * len(texts),
        layers=None,
    )
    words = [PageWord(text, " " if i else "", 0.5) for i, text in enumerate(texts)]
    answer = " ".join(texts)
    return Page(
        title=answer,
        prompt=prompt,
        answer=answer,
        words=words,
        pictures=[PagePicture((40, 60), image)],
        results=[result],
        still=image,
    )


class Skeleton(HTMLParser):
    """The elements of a document, and the texts in them."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Any] = []
        self.texts: dict[str, list[str]] = {}
        self._open = [""]
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # What a model says stands in these attributes only.
        free = ("aria-label", "content", "srcdoc", "src", "dir")
        kept = [(key, None if key in free else value) for key, value in attrs]
        self.elements.append((tag, kept))
        if tag not in ("img", "br", "meta", "input"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(f"/{tag}")
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1]:
            self.texts[self._open[-1]][-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


any_text = strategies.one_of(
    strategies.text(max_size=40),
    strategies.text(strategies.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp"))),
    strategies.sampled_from(HOSTILE),
    strategies.lists(strategies.sampled_from(HOSTILE), max_size=3).map("".join),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(any_text, any_text, any_text, any_text)
def test_whatever_is_said_is_text(one: str, two: str, prompt: str, name: str) -> None:
    """The document has the same elements as one with plain words."""
    page = page_of((one, two), f"?{prompt}", f"m{name}", f"n{name}")
    document = page_html(page)
    assert document.isascii()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", document)
    skeleton, plain = Skeleton(document), Skeleton(page_html(page_of()))
    assert skeleton.elements == plain.elements
    texts = skeleton.texts
    assert texts["span"][-2:] == [word_label(one), word_label(two)]
    assert visible(f"?{prompt}") in texts["p"]
    assert texts["h2"] == [""] and texts["bdi"][0] == visible(f"m{name}")
    data = json.loads(texts["script"][0])
    for text, word in zip((one, two), data["words"]):
        assert word.get("full", word["label"]) in (visible(text), word_label(text))
    frame = frame_html(page)
    outside = Skeleton(frame)
    assert outside.elements == Skeleton(frame_html(page_of())).elements
    assert frame.isascii()
    (source,) = re.findall(r'srcdoc="([^"]*)"', frame)
    inside = Skeleton(entities.unescape(source))
    for tag in ("span", "bdi"):
        assert inside.texts[tag] == texts[tag]


@given(strategies.text())
def test_visible_text_has_no_control_characters(text: str) -> None:
    shown = visible(text)
    assert all(one == "\n" or one.isprintable() or one != "\x00" for one in shown)
    assert visible("plain text,\nof two lines") == "plain text,\nof two lines"
    shown.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_hostile_words_in_a_browser(browser: Any, tmp_path: Path) -> None:
    document = page_html(page_of(HOSTILE, HOSTILE[0], HOSTILE[1], HOSTILE[2]))
    page = OpenPage(browser, document, tmp_path / "hostile.html")
    shown = page.run(
        "return [...document.querySelectorAll('[data-word]')].map("
        "(word) => [word.textContent, word.childNodes.length])"
    )
    assert shown == [[word_label(text), 1] for text in HOSTILE]
    assert page.text("h2") == HOSTILE[1]
    for index, text in enumerate(HOSTILE):
        page.run(
            "document.querySelectorAll('[data-word]')[arguments[0]].click()", index
        )
        page.settle()
        assert page.run("return document.getElementById('chosen').textContent") == (
            word_label(text)
        )
    assert page.run("return window.hit") is None
    page.click(HOSTILE.index("x" * 10_000))
    page.find("summary").click()
    assert (
        page.run("return document.getElementById('full').textContent") == "x" * 10_000
    )
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.run(overflow) <= 0
    assert page.complaints() == []


def test_direction_of_one_word_is_its_own(browser: Any, tmp_path: Path) -> None:
    """An override or a Hebrew word does not turn what follows."""
    document = page_html(page_of(("one", "\u202eabc", "שלום", "two")))
    page = OpenPage(browser, document, tmp_path / "directions.html")
    left = [page.word(index).rect["x"] for index in range(4)]
    assert left == sorted(left)
    document = page_html(page_of(("שלום", "עולם")))
    page = OpenPage(browser, document, tmp_path / "right_to_left.html")
    assert page.word(0).rect["x"] > page.word(1).rect["x"]
    assert direction(["12 .", "שלום", "a"]) == "rtl"
    assert direction(["12 .", "a", "שלום"]) == direction([]) == "ltr"


def test_one_file_that_loads_nothing() -> None:
    document = page_html(page_of())
    assert document.startswith("<!DOCTYPE html>")
    for start in ("http:", "https:", "url(", "@import", "src=", "href="):
        places = [match.end() for match in re.finditer(re.escape(start), document)]
        assert all(document[place:].startswith('"data:') for place in places), start
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', document)
    rules = dict(rule.split(" ", 1) for rule in entities.unescape(policy).split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    texts = Skeleton(document).texts
    for rule, text in (
        ("style-src", texts["style"][0]),
        ("script-src", texts["script"][1]),
    ):
        digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_same_page_is_the_same_document() -> None:
    assert page_html(page_of()) == page_html(page_of())
    assert frame_html(page_of()) == frame_html(page_of())


@pytest.mark.parametrize("bits", [8, 16])
def test_rows_of_numbers(bits: int) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(5, 70)) * np.logspace(-30, 30, 5)[:, None]
    values[2] = 0
    values[3] = -7.25
    packed = encoding.rows(values, bits)
    integers = np.frombuffer(b64decode(packed["data"]), "<u2" if bits == 16 else "u1")
    low, step = np.array(packed["low"]), np.array(packed["step"])
    read = low[:, None] + step[:, None] * integers.reshape(values.shape)
    spread = np.ptp(values, axis=1, keepdims=True)
    assert (np.abs(read - values) <= spread * 0.51 / (2**bits - 1)).all()
    assert (read[2] == 0).all() and (read[3] == -7.25).all()


def test_many_numbers_take_less() -> None:
    assert encoding.rows(np.zeros((2, 8)))["bits"] == 16
    assert encoding.rows(np.zeros((2**10, 2**11)))["bits"] == 8
    with pytest.raises(ValueError, match="finite numbers only, got nan"):
        encoding.rows(np.full((1, 1), np.nan))


@pytest.mark.parametrize("size", [(96, 96), (1024, 768), (4000, 300), (30, 5000)])
def test_images_are_compressed_once(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    uri = encoding.image_uri(Image.fromarray(pixels))
    assert uri.startswith("data:image/webp;base64,")
    read = Image.open(io.BytesIO(b64decode(uri.partition(",")[2])))
    assert max(read.size) == min(1024, max(size))
    assert read.width / read.height == pytest.approx(size[0] / size[1], rel=0.15)
    if max(size) <= 256:
        np.testing.assert_array_equal(np.asarray(read.convert("RGB")), pixels)


def test_regions_as_runs() -> None:
    cells = np.random.default_rng(0).integers(0, 3, (7, 9))
    packed = encoding.places(RegionPlaces(cells, 3, None))
    runs = np.frombuffer(b64decode(packed["runs"]), "<u4").reshape(-1, 2)
    np.testing.assert_array_equal(np.repeat(runs[:, 1], runs[:, 0]), cells.ravel())


@pytest.mark.parametrize(
    "words, from_left",
    [
        (("שלום", "hello", "big", "world", "עולם"), (4, 1, 2, 3, 0)),
        (("one", "שלום", "עולם", "two"), (0, 2, 1, 3)),
    ],
    ids=["Latin in Hebrew", "Hebrew in Latin"],
)
def test_words_of_another_direction_keep_their_order(
    browser: Any, tmp_path: Path, words: tuple[str, ...], from_left: tuple[int, ...]
) -> None:
    """Several of them are read as in any text, not word by word the other way."""
    page = OpenPage(browser, page_html(page_of(words)), tmp_path / "page.html")
    left = {word: page.word(word).rect["x"] for word in range(len(words))}
    assert tuple(sorted(left, key=left.__getitem__)) == from_left
