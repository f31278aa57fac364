"""Pieces of HTML hold text from outside as text, whatever it is."""

import base64
import copy
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from captum_dexar.app import fragments
from captum_dexar.result.canvas import Canvas
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.visualization import Backdrop
from captum_dexar.visualization.text import label
from hypothesis import example, given, settings, strategies
from PIL import Image
from tests.app.questions import batch_result, tiny_model

RESULT = batch_result(tiny_model(), "dexar", [40, 41, 42])
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</p></style>`${alert(1)}`{{7*7}}",
    "a\0b\x1b[31m\x9b\u202eevil\u2066\ud800",
    "&lt;b&gt; &#0; &amp;amp;",
    "x" * 10_000,
]
TAGS = {"p", "div", "bdi", "span", "figure", "img", "figcaption", "nav", "a"}
ATTRIBUTES = {"class", "role", "dir", "style", "title", "src", "alt", "href"} | {
    "download",
    "aria-label",
}
TEXTS = strategies.text(max_size=60)


class Read(HTMLParser):
    """The texts of a piece of HTML, and the addresses in it.

    It fails at any element or attribute that is not one of ours.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        assert tag in TAGS and {name for name, _ in attrs} <= ATTRIBUTES
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment  # type: ignore[assignment]


def with_tokens(texts: list[str]) -> VLMAttributionResult:
    result = copy.copy(RESULT)
    result.output_tokens = texts
    return result


def hostile(function: Any) -> Any:
    for text in HOSTILE:
        function = example(text)(function)
    return settings(max_examples=60, deadline=None)(given(TEXTS)(function))


@hostile
def test_messages(text: str) -> None:
    for kind in ("note", "error"):
        read = Read(fragments.message(text, kind))
        shown = label(" ".join(text.split()), 800)
        assert "".join(read.texts) == (shown if text else "")
        assert fragments.message(text, kind).isprintable() or not shown.isprintable()


@hostile
def test_links(text: str) -> None:
    read = Read(fragments.links({text: f"/download/key/{text}"}))
    assert "".join(read.texts) == label(text)


@hostile
def test_words(text: str) -> None:
    result = with_tokens(["first", text, "last"])
    words = [word.text for word in result.words()]
    read = Read(fragments.words_so_far(result))
    shown = [label(word, 48) for word in words]
    *flowing, _, newest, weight = read.texts
    assert [one for one in flowing if one != " "] == [one for one in shown if one]
    assert newest == shown[-1] and weight.startswith(", weight ")
    (address,) = read.addresses
    assert re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", address)


def test_the_picture_is_the_newest_words_map() -> None:
    result = with_tokens(["a", "red", "circle"])
    html = fragments.words_so_far(result)
    (address,) = Read(html).addresses
    content = base64.b64decode(address.partition(",")[2])
    picture = np.asarray(Image.open(io.BytesIO(content))).astype(float) / 255
    canvas = Canvas(result, 0, 1)
    weights = [word.weight for word in result.words()]
    largest = max(weights) or 1.0
    expected = [
        Backdrop(canvas.pixels, canvas.unseen).overlay(
            canvas.heat(word), 0.3 + 0.7 * max(0.0, word.weight) / largest
        )
        for word in result.words()
    ]
    errors = [float(np.abs(picture - one).mean()) for one in expected]
    # JPEG rounds.
    assert errors[-1] < 0.03 and errors[-1] == min(errors)
    shares = [float(one) for one in re.findall(r"--share:([\d.]+)", html)]
    assert shares == pytest.approx([max(0, one) / largest for one in weights], abs=1e-3)


def test_nothing_is_shown_of_no_word() -> None:
    assert fragments.words_so_far(with_tokens([])) == ""
    assert fragments.message("") == ""
