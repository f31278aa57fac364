"""Images, maps and numbers of a page as compact text."""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from typing import Any

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.page.data import (
    Array,
    GridPlaces,
    PageLayers,
    Places,
    RegionPlaces,
)
from PIL import Image

LONGEST_SIDE = 1024
# Images up to this side are drawn larger than they are and keep every pixel.
_LOSSLESS_SIDE = 256
_QUALITY = 80
# Values of all maps up to which each takes 16 bits; of larger ones it takes 8.
_MOST_WIDE_VALUES = 2**20
_DIGITS = 12


def image_uri(image: Image.Image, quality: int = _QUALITY) -> str:
    """An image, scaled down if it is large, as a WebP file in a ``data:`` URI."""
    picture = image.convert("RGB")
    scale = LONGEST_SIDE / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(scale * side)) for side in picture.size)
        picture = picture.resize(
            (width, height), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
    file = io.BytesIO()
    is_small = max(picture.size) <= _LOSSLESS_SIDE
    picture.save(file, "WEBP", quality=quality, lossless=is_small, method=4)
    return f"data:image/webp;base64,{base64(file.getvalue())}"


def base64(content: bytes) -> str:
    """Bytes as base64 text."""
    return b64encode(content).decode("ascii")


def rows(values: Array, bits: int | None = None) -> dict[str, Any]:
    """Rows of numbers, each as integers on a scale of its own.

    Args:
        values (ndarray): ``(rows, columns)``, finite
        bits (int, optional): 8 or 16 for each number. Default: None, 16 unless there
            are very many

    Returns:
        dict of ``bits``; ``low`` and ``step`` with a number for each row, so that a
        value is ``low + step * integer``; ``data``, the little-endian integers.
    """
    wide = np.asarray(values, dtype=np.float64)
    if bits is None:
        bits = 16 if wide.size <= _MOST_WIDE_VALUES else 8
    most = 2**bits - 1
    low = [number(value) for value in wide.min(axis=1, initial=np.inf)]
    high = wide.max(axis=1, initial=-np.inf)
    step = [number((one - least) / most) for one, least in zip(high, low)]
    divisor = np.array([size or 1.0 for size in step])[:, None]
    steps = np.rint((wide - np.array(low)[:, None]) / divisor)
    integers = np.clip(steps, 0, most).astype("<u2" if bits == 16 else "u1")
    return {"bits": bits, "low": low, "step": step, "data": base64(integers.tobytes())}


def layers(values: PageLayers, first: int = 0) -> dict[str, Any]:
    """The layers of a result."""
    content: dict[str, Any] = {
        "indices": list(values.indices),
        "strengths": [[number(one, 5) for one in row] for row in values.strengths],
        "maps": None,
    }
    if values.maps is not None:
        content["signed"] = bool((values.maps < 0).any())
        content["maps"] = rows(values.maps.reshape(-1, values.maps.shape[-1]), bits=8)
        content["places"] = [places(one) for one in values.places]
    return content


def places(where: Places) -> dict[str, Any]:
    """Where the cells of a picture lie."""
    if isinstance(where, RegionPlaces):
        return {
            "kind": "regions",
            "cells": where.num_cells,
            "unseen": where.unseen_cell,
            "runs": base64(_runs(where.cell_of_pixel)),
        }
    return _grid(where)


def _grid(where: GridPlaces) -> dict[str, Any]:
    rows, columns = where.grid
    content: dict[str, Any] = {
        "kind": "blocks",
        "cells": where.num_cells,
        "rows": rows,
        "columns": columns,
    }
    if where.rectangle is not None:
        content["kind"] = "grid"
        content["rectangle"] = [number(edge) for edge in where.rectangle]
        content["seen"] = [list(box) for box in where.seen]
        content["views"] = [[number(edge, 6) for edge in box] for box in where.views]
    return content


def _runs(cells: npt.NDArray[np.integer[Any]]) -> bytes:
    """Lengths and values of runs of equal numbers, as little-endian pairs."""
    flat = cells.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, flat.size])
    return np.stack([lengths, flat[starts]], axis=1).astype("<u4").tobytes()


def number(value: float, digits: int = _DIGITS) -> float:
    """A finite number, rounded to significant digits.

    Raises:
        ValueError: the number is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"A page shows finite numbers only, got {value}.")
    return float(f"{value:.{digits}g}")


def script_json(content: Any) -> str:
    """JSON in ASCII that is inert within a ``<script>`` element."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
