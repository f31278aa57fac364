"""Figures of token maps, drawn from plain arrays with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from captum_dexar.visualization.overlay import (
    COLORMAP,
    FloatArray,
    overlay,
    SIGNED_COLORMAP,
    striped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_PANEL_INCHES = 1.55
_MAX_COLUMNS = 8
_DIM_TEXT = "0.55"


def token_figure(
    image: npt.NDArray[np.uint8],
    heats: Sequence[FloatArray],
    strengths: Sequence[float],
    labels: Sequence[str],
    captions: Sequence[str],
    unseen: npt.NDArray[np.bool_],
    scale_label: str,
    signed: bool = False,
) -> tuple[Figure, npt.NDArray[Any]]:
    """The image, then one panel per token, all on one colour scale.

    Args:
        image (ndarray): ``(height, width, 3)``, uint8
        heats (sequence of ndarray): each token's map, ``(height, width)``, in [0, 1],
            or in [-1, 1] if signed
        strengths (sequence of float): opacity of each map, in [0, 1]
        labels (sequence of str): the tokens' text, above the panels
        captions (sequence of str): text below the panels, such as weights
        unseen (ndarray): ``(height, width)``, True where no token covers the pixel
        scale_label (str): label of the colour bar
        signed (bool, optional): uses a diverging colour scale. Default: False

    Returns:
        The figure and its axes, the image's first.
    """
    num_panels = len(heats) + 1
    columns = min(_MAX_COLUMNS, num_panels)
    rows = ceil(num_panels / columns)
    figure, axes = _panels(rows, columns, image.shape[0] / image.shape[1], text=0.5)
    flat = axes.ravel()
    flat[0].imshow(seen_image(image, unseen))
    flat[0].set_title("image", fontsize=9)
    for axis, heat, strength, label, caption in zip(
        flat[1:], heats, strengths, labels, captions
    ):
        axis.imshow(overlay(image, heat, unseen, strength, signed))
        is_dim = strength < 0.5
        axis.set_title(
            label,
            fontsize=10,
            fontweight="normal" if is_dim else "bold",
            color=_DIM_TEXT if is_dim else "black",
        )
        axis.set_xlabel(caption, fontsize=7.5, color=_DIM_TEXT if is_dim else "0.2")
    for axis in flat[num_panels:]:
        axis.set_visible(False)
    _colour_bar(figure, flat[:num_panels].tolist(), scale_label, signed)
    return figure, axes


def sequence_figure(
    image: npt.NDArray[np.uint8],
    heat: FloatArray,
    unseen: npt.NDArray[np.bool_],
    title: str,
    signed: bool = False,
) -> tuple[Figure, Axes]:
    """The image and one map of the whole answer, side by side.

    Args:
        image, unseen, signed: as in :func:`token_figure`
        heat (ndarray): the map, ``(height, width)``
        title (str): the answer

    Returns:
        The figure and the axes of the map.
    """
    figure, axes = _panels(1, 2, image.shape[0] / image.shape[1], 2.0, text=0.6)
    plain, mapped = axes.ravel()
    plain.imshow(seen_image(image, unseen))
    plain.set_title("image", fontsize=10)
    mapped.imshow(overlay(image, heat, unseen, signed=signed))
    mapped.set_title("whole answer", fontsize=10)
    figure.suptitle(title, fontsize=10, wrap=True)
    _colour_bar(figure, [plain, mapped], "share of the largest value", signed)
    return figure, mapped


def layer_figure(
    image: npt.NDArray[np.uint8],
    heats: npt.NDArray[np.float64],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    unseen: npt.NDArray[np.bool_],
    scale_label: str,
    signed: bool = False,
) -> tuple[Figure, npt.NDArray[Any]]:
    """Rows are tokens, columns are layers.

    Args:
        image, unseen, scale_label, signed: as in :func:`token_figure`
        heats (ndarray): ``(rows, columns, height, width)``, in [0, 1], or in [-1, 1] if
            signed
        row_labels (sequence of str): the tokens' text
        column_labels (sequence of str): the layers' names

    Returns:
        The figure and its axes, ``(rows, columns)``.
    """
    rows, columns = heats.shape[:2]
    figure, axes = _panels(rows, columns, image.shape[0] / image.shape[1], scale=0.7)
    for row in range(rows):
        for column in range(columns):
            heat = heats[row, column]
            axes[row, column].imshow(overlay(image, heat, unseen, signed=signed))
            if row == 0:
                axes[row, column].set_title(column_labels[column], fontsize=8)
        axes[row, 0].set_ylabel(
            row_labels[row], fontsize=9, rotation=0, ha="right", va="center"
        )
    _colour_bar(figure, axes.ravel().tolist(), scale_label, signed)
    return figure, axes


def colour_scale(signed: bool) -> ScalarMappable:
    """The colour scale of maps, for a colour bar: from 0, or -1 if signed, to 1."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if signed:
        return ScalarMappable(Normalize(-1, 1), SIGNED_COLORMAP)
    return ScalarMappable(Normalize(0, 1), COLORMAP)


def seen_image(
    image: npt.NDArray[np.uint8], unseen: npt.NDArray[np.bool_]
) -> FloatArray:
    """The image, with stripes where no image token covers it."""
    picture = image.astype(np.float64) / 255
    return np.where(unseen[..., None], striped(picture), picture)


def _panels(
    rows: int, columns: int, aspect: float, scale: float = 1.0, text: float = 0.04
) -> tuple[Figure, npt.NDArray[Any]]:
    """Axes without ticks; ``text`` is the height of a row's text, in inches."""
    import matplotlib.pyplot as plt

    # Keep panels of very long images between 1:3 and 3:1.
    aspect = min(3.0, max(1 / 3, aspect))
    width, height = _PANEL_INCHES * scale, _PANEL_INCHES * scale * aspect
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * width + 1.4, rows * (height + text) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.set_facecolor("white")
    return figure, axes


def _colour_bar(figure: Figure, axes: list[Axes], label: str, signed: bool) -> None:
    bar = figure.colorbar(
        colour_scale(signed), ax=axes, fraction=0.03, pad=0.01, aspect=25
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
