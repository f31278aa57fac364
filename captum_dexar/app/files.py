"""What a visitor downloads, made in memory when it is asked for."""

from __future__ import annotations

import gc
import io
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from captum_dexar.app.memory import give_back
from captum_dexar.app.session import Session
from captum_dexar.comparison.comparison import Comparison
from captum_dexar.result.result import VLMAttributionResult

_DPI = 150
# matplotlib draws for one thread at a time, and opens its fonts for each that it sees.
_DRAWING = ThreadPoolExecutor(1, "drawing")


def files_of(session: Session) -> dict[str, Callable[[], bytes]]:
    """The files of the explanations that are shown, by name.

    Args:
        session (Session): a visitor's session

    Returns:
        dict from names to functions that make the files
    """
    comparison = session.comparison()
    if comparison is None or session.question is None:
        return {}
    files: dict[str, Callable[[], bytes]] = {
        "answer.html": partial(_page, comparison, session.question.prompt),
        "answer.png": lambda: _DRAWING.submit(_figure, comparison).result(),
    }
    for method in session.shown:
        result = comparison.results[session.title_of(method)]
        files[f"{method}.dexar"] = partial(_result_file, result)
    return files


def _page(comparison: Comparison, prompt: str) -> bytes:
    return comparison.to_html(prompt).encode()


def _figure(comparison: Comparison) -> bytes:
    import matplotlib.pyplot as plt

    result, *others = comparison.results.values()
    file = io.BytesIO()
    drawn: Any = comparison.plot() if others else result.plot_tokens()
    try:
        drawn[0].savefig(file, format="png", dpi=_DPI)
    finally:
        plt.close(drawn[0])
        # A figure holds itself, and up to hundreds of megabytes, until the garbage
        # collector looks at everything, which may take hours.
        del drawn
        gc.collect()
        give_back()
    return file.getvalue()


def _result_file(result: VLMAttributionResult) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.dexar"
        result.save(path)
        return path.read_bytes()
