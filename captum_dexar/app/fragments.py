"""Pieces of HTML of the page. Everything in them that is not ours is text."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from captum_dexar.comparison.comparison import Comparison
from captum_dexar.comparison.table import duration
from captum_dexar.result.canvas import Canvas
from captum_dexar.result.page import page_of
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.words import Word
from captum_dexar.visualization import Backdrop
from captum_dexar.visualization.page import frame_html
from captum_dexar.visualization.text import label
from PIL import Image

_LONGEST_WORD = 48
_LONGEST_LINE = 800
# The panels that share a figure's pixels; the more, the smaller the picture.
_PANELS = 32
# Opacity of the map of a word of weight 0.
_FAINTEST = 0.3
_QUALITY = 85


def message(text: str, kind: str = "note") -> str:
    """A line of text.

    Args:
        text (str): any text; of an empty one, nothing is left
        kind (str, optional): ``"note"`` or ``"error"``. Default: ``"note"``
    """
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    shown = escape(label(" ".join(text.split()), _LONGEST_LINE))
    return f'<p class="dexar-{kind}" role="{role}" dir="auto">{shown}</p>'


def words_so_far(result: VLMAttributionResult) -> str:
    """The words, tinted by their weights, and the newest one's map.

    Args:
        result (VLMAttributionResult): the explained part of an answer
    """
    words = result.words()
    if not words:
        return ""
    largest = max((word.weight or 0.0 for word in words), default=0.0) or 1.0
    spans = " ".join(_word(word, largest) for word in words)
    return (
        f'<div class="dexar-live"><p class="dexar-words" dir="auto">{spans}</p>'
        f"{_picture(result, words[-1], largest)}</div>"
    )


def _word(word: Word, largest: float) -> str:
    text = escape(label(word.text, _LONGEST_WORD))
    if word.weight is None:
        return f"<span>{text}</span>"
    share = max(0.0, word.weight) / largest
    return (
        f'<span class="dexar-word" style="--share:{share:.3f}" '
        f'title="weight {word.weight:.3g}">{text}</span>'
    )


def _picture(result: VLMAttributionResult, word: Word, largest: float) -> str:
    if not result.images or not result.layout.is_located:
        return ""
    canvas = Canvas(result, 0, _PANELS)
    strength = 1.0
    if word.weight is not None:
        strength = _FAINTEST + (1 - _FAINTEST) * max(0.0, word.weight) / largest
    blended = Backdrop(canvas.pixels, canvas.unseen, result.is_signed).overlay(
        canvas.heat(word), strength
    )
    pixels = np.rint(np.clip(blended, 0, 1) * 255).astype(np.uint8)
    weight = "" if word.weight is None else f", weight {word.weight:.3g}"
    text = escape(label(word.text, _LONGEST_WORD))
    return (
        f'<figure><img src="{_data_uri(pixels)}" alt="The map of the newest word on '
        f'the image"><figcaption>map of <bdi>{text}</bdi>{weight}</figcaption></figure>'
    )


def _data_uri(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def explanation(comparison: Comparison, prompt: str) -> str:
    """The interactive page in a frame, which nothing gets out of.

    Args:
        comparison (Comparison): the explanations to show, one or several
        prompt (str): the question
    """
    notes = [duration(seconds) for seconds in comparison.seconds.values()]
    return frame_html(page_of(comparison.results, notes, prompt))


def links(addresses: Mapping[str, str]) -> str:
    """Links to files.

    Args:
        addresses (Mapping): from texts to addresses
    """
    shown = "".join(
        f'<a href="{escape(address)}" download>{escape(label(text))}</a>'
        for text, address in addresses.items()
    )
    return f'<nav class="dexar-files" aria-label="Download">{shown}</nav>'
