"""A page as one HTML file that needs nothing else."""

from __future__ import annotations

import hashlib
from functools import cache
from html import escape
from typing import Any

import numpy as np
from captum_dexar.visualization.overlay import COLORMAP, OPACITY_POWER, SIGNED_COLORMAP
from captum_dexar.visualization.page import encoding
from captum_dexar.visualization.page.data import (
    GridPlaces,
    Page,
    PageResult,
    Places,
    RegionPlaces,
)
from captum_dexar.visualization.page.texts import (
    direction,
    title_label,
    visible,
    word_label,
)
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

# Shades of a word's tint, from none to that of the largest weight.
_TINTS = 16
# The opacity of a map of weight 0; that of the largest weight is 1.
FAINTEST = 0.3
# Regions are outlined from this value on, if nothing is hidden.
_REGION_THRESHOLD = 0.5
# Height of a frame in a notebook until the page in it tells its own, in pixels.
_FRAME_HEIGHT = 640


def page_html(page: Page) -> str:
    """The page as an HTML document, in ASCII.

    It loads nothing, and its security policy forbids to: the style and the script are
    allowed by their hash, and images by being written out.

    Args:
        page (Page): its content
    """
    return _document(page, embedded=False)


def frame_html(page: Page) -> str:
    """The page in a frame of its own, to be put into another document.

    The frame is a sandbox: neither styles nor identifiers get out of it, nor scripts to
    the document around. A viewer that runs no script shows a picture instead.

    Args:
        page (Page): its content
    """
    document = escape(_document(page, embedded=True))
    # The frame appears once a script runs, and is as high as it says.
    return (
        '<div><figure style="margin:0"><img style="max-width:100%" '
        f'alt="The whole answer\'s heatmap on the picture" '
        f'src="{encoding.image_uri(page.still)}">'
        f"<figcaption>{_ascii(escape(visible(page.answer)))}</figcaption></figure>"
        '<iframe sandbox="allow-scripts" title="Where each word comes from" '
        f'style="display:none;width:100%;height:{_FRAME_HEIGHT}px;border:0" '
        f'onload="{escape(_ON_LOAD)}" srcdoc="{document}"></iframe></div>'
    )


# In a handler that is an attribute, plain names are looked up in the element first.
_ON_LOAD = (
    "const frame = this; "
    "frame.previousElementSibling.style.display = 'none'; "
    "frame.style.display = 'block'; "
    "const listen = (event) => { "
    "if (!frame.isConnected) { "
    "window.removeEventListener('message', listen); return; } "
    "const height = event.data && event.data.captumDexarHeight; "
    "if (event.source === frame.contentWindow && Number.isFinite(height)) "
    "frame.style.height = Math.min(height, 4000) + 'px'; }; "
    "window.addEventListener('message', listen); "
    "frame.contentWindow.postMessage('height', '*');"
)


def _document(page: Page, embedded: bool) -> str:
    template = _template()
    style, script = _asset("page.css"), _asset("page.js")
    rendered = template.render(
        embedded=embedded,
        policy=_policy(style, script),
        title=title_label(page.title),
        style=Markup(style),
        script=Markup(script),
        data=Markup(encoding.script_json(_data(page))),
        prompt=None if page.prompt is None else visible(page.prompt),
        direction=direction([word.text for word in page.words]),
        words=_words(page),
        pictures=_pictures(page),
        results=[_heading(result) for result in page.results],
        num_panels=len(page.results) * len(page.pictures),
        still=None if embedded else encoding.image_uri(page.still),
        **_facts(page),
    )
    return _ascii(rendered)


def _ascii(text: str) -> str:
    """The same document, whatever encoding it is written or read in."""
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("captum_dexar.visualization", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
        trim_blocks=True,
    )


def _template() -> Template:
    return _environment().get_template("page.html")


@cache
def _asset(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return f"'sha256-{encoding.base64(hashlib.sha256(text.encode()).digest())}'"

    return (
        f"default-src 'none'; img-src data:; style-src {source(style)}; "
        f"script-src {source(script)}; base-uri 'none'; form-action 'none'"
    )


def _data(page: Page) -> dict[str, Any]:
    """What the script draws from."""
    return {
        "words": [_word_data(word.text, word.probability) for word in page.words],
        "pictures": [
            None if picture.image is None else encoding.image_uri(picture.image)
            for picture in page.pictures
        ],
        "results": [_result_data(result) for result in page.results],
        "colours": {
            "plain": _colours(COLORMAP),
            "signed": _colours(SIGNED_COLORMAP),
        },
        "faintest": FAINTEST,
        "threshold": _REGION_THRESHOLD,
        "exponent": OPACITY_POWER,
    }


def _word_data(text: str, probability: float | None) -> dict[str, Any]:
    shown = word_label(text)
    content: dict[str, Any] = {
        "label": shown,
        "probability": None if probability is None else encoding.number(probability, 6),
    }
    if shown != visible(text):
        content["full"] = visible(text)
    return content


def _result_data(result: PageResult) -> dict[str, Any]:
    weights = result.weights
    return {
        "name": visible(result.name),
        "signed": result.signed,
        "maps": encoding.rows(result.maps),
        "places": [encoding.places(where) for where in result.places],
        "weights": (
            None if weights is None else [encoding.number(one, 6) for one in weights]
        ),
        "evidence": [bool(one) for one in result.has_evidence],
        "layers": None if result.layers is None else encoding.layers(result.layers),
        "ratherThan": (
            None
            if result.rather_than is None
            else [visible(text) for text in result.rather_than]
        ),
    }


def _colours(name: str) -> str:
    """The red, green and blue of 256 shades of a colour map."""
    import matplotlib

    shades = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return encoding.base64(np.ascontiguousarray(shades).tobytes())


def _words(page: Page) -> list[dict[str, Any]]:
    tinted = _tinted(page)
    weights = [0.0] * len(page.words) if tinted is None else list(tinted.weights or ())
    largest = max([0.0, *weights])
    return [
        {
            "label": word_label(word.text),
            "before": word.before,
            "tint": round(_TINTS * max(0.0, weight) / (largest or 1.0)),
            "has_evidence": _has_evidence(page, index),
        }
        for index, (word, weight) in enumerate(zip(page.words, weights))
    ]


def _tinted(page: Page) -> PageResult | None:
    """The result whose weights tint the words: the first that has any."""
    return next((one for one in page.results if one.weights is not None), None)


def _has_evidence(page: Page, word: int) -> bool:
    tinted = _tinted(page)
    asked = page.results if tinted is None else [tinted]
    return any(result.has_evidence[word] for result in asked)


def _pictures(page: Page) -> list[dict[str, Any]]:
    count = len(page.pictures)
    return [
        {
            "height": picture.size[0],
            "width": picture.size[1],
            "has_image": picture.image is not None,
            "label": f"picture {index + 1} of {count}" if count > 1 else "the picture",
        }
        for index, picture in enumerate(page.pictures)
    ]


def _heading(result: PageResult) -> dict[str, Any]:
    least, most = ("lowers it", "raises it") if result.signed else ("least", "most")
    return {
        "name": visible(result.name),
        "note": visible(result.note),
        "least": least,
        "most": most,
        "has_layers": result.layers is not None,
    }


def _facts(page: Page) -> dict[str, Any]:
    """What the help speaks of."""
    tinted = _tinted(page) if len(page.results) > 1 else None
    everywhere = [where for result in page.results for where in result.places]
    return {
        "signed": any(result.signed for result in page.results),
        "has_weights": _tinted(page) is not None,
        "tinted_by": None if tinted is None else visible(tinted.name),
        "has_views": any(
            isinstance(where, GridPlaces) and bool(where.views) for where in everywhere
        ),
        "has_unseen": any(
            _has_unseen(where, picture.size)
            for result in page.results
            for where, picture in zip(result.places, page.pictures)
        ),
        "some_blind": not all(
            _has_evidence(page, word) for word in range(len(page.words))
        ),
    }


def _has_unseen(where: Places, size: tuple[int, int]) -> bool:
    if isinstance(where, RegionPlaces):
        return where.unseen_cell is not None
    if where.rectangle is None:
        return False
    seen = np.zeros(size, dtype=bool)
    for y0, x0, y1, x1 in where.seen:
        seen[y0:y1, x0:x1] = True
    return not seen.all()
