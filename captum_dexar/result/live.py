"""An answer in a notebook, drawn while the model generates it."""

from __future__ import annotations

import io
import time
import warnings
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from captum_dexar.result.joined import joined
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.visualization.text import label

# Of the picture of an answer that is not complete.
_DPI = 70
_TINT = "203, 71, 119"


def live(
    steps: Iterable[VLMAttributionResult],
    *,
    seconds: float = 0.5,
    normalize: bool = True,
) -> VLMAttributionResult:
    """Shows a streamed answer in a notebook cell, and draws it again as it grows.

    While the model generates, the cell shows the text so far, each token tinted by its
    weight relative to the largest so far, and the map of the answer so far. At the end
    the interactive page of the whole answer takes their place.

    Args:
        steps (iterable of VLMAttributionResult): from :meth:`VLMAttribution.stream`
        seconds (float, optional): least time from one drawing to the next. Default: 0.5
        normalize (bool, optional): as given to ``stream``. Default: True

    Returns:
        VLMAttributionResult of the whole answer

    Raises:
        ImportError: IPython is not installed.
        ValueError: there are no steps.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.result.live import live
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> result = live(dexar.stream(inp, every=4))  # doctest: +SKIP
    """
    try:
        import IPython.display
    except ImportError as error:
        raise ImportError(
            "live() draws in a notebook, which needs IPython. Install it with pip "
            "install ipython, or loop over stream() yourself."
        ) from error
    notebook: Any = IPython.display
    # None outside notebooks, where a drawing can't be replaced.
    handle = notebook.display(notebook.HTML(""), display_id=True)
    parts: list[VLMAttributionResult] = []
    drawn = -seconds
    for part in steps:
        parts.append(part)
        now = time.monotonic()
        if handle is not None and (len(parts) == 1 or now - drawn >= seconds):
            handle.update(notebook.HTML(_so_far(parts, normalize)))
            drawn = time.monotonic()
    result = joined(parts, normalize)
    if handle is not None:
        handle.update(result)
    return result


def _so_far(parts: Sequence[VLMAttributionResult], normalize: bool) -> str:
    """The text and the map of the answer so far, as HTML."""
    with warnings.catch_warnings():
        # That nothing has been seen yet does not say anything of the whole answer.
        warnings.simplefilter("ignore", UserWarning)
        result = joined(parts, normalize)
    words = "".join(map(_tinted, parts, _shares(result)))
    return (
        '<div dir="auto" style="white-space: pre-wrap; font-family: sans-serif; '
        f'line-height: 1.6">{words}</div>{_picture(result)}'
    )


def _shares(result: VLMAttributionResult) -> list[float]:
    """The weight of each token, as a share of the largest."""
    weights = result.token_weights
    if weights is None or not bool((weights > 0).any()):
        return [0.0] * len(result.output_tokens)
    shares: list[float] = (weights / weights.max()).tolist()
    return shares


def _tinted(part: VLMAttributionResult, share: float) -> str:
    # Blanks between words are not tinted.
    text = part.answer
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :] if text.strip() else ""
    word = escape(label(text.strip())) if text.strip() else ""
    tint = f"background: rgba({_TINT}, {0.85 * share:.3f})"
    return f'{before}<span style="{tint}">{word}</span>{after}' if word else before


def _picture(result: VLMAttributionResult) -> str:
    if not result.images:
        return ""
    import matplotlib.pyplot as plt

    drawn: Any = result.plot_sequence()
    figure, _ = drawn
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI)
    plt.close(figure)
    encoded = b64encode(png.getvalue()).decode()
    return f'<img alt="map of the answer so far" src="data:image/png;base64,{encoded}">'
