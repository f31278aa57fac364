"""The plots of a result."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

from captum.attr import LLMAttributionResult
from captum_dexar.inputs import display_input
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.canvas import Canvas, known_image
from captum_dexar.result.words import Word
from captum_dexar.visualization import (
    layer_figure,
    sequence_figure,
    sequence_panel,
    show_as_it_is,
    token_figure,
)
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


FAINTEST = 0.3
_FAINT_LABEL = "map; fainter, the smaller the word's weight"


def plot_tokens(
    result: AnswerMaps,
    words: bool,
    show: bool,
    image: int,
    fig: Figure | SubFigure | None,
) -> tuple[Figure, Any] | None:
    """See :meth:`VLMAttributionResult.plot_tokens`."""
    parts = parts_of(result, words)
    canvas = Canvas(result, image, len(parts) + 1)
    figure, axes = token_figure(
        canvas.pixels,
        (canvas.heat(part) for part in parts),
        _opacity(result, parts),
        [part.text for part in parts],
        [caption_of(part) for part in parts],
        canvas.unseen,
        "map" if result.token_weights is None else _FAINT_LABEL,
        result.is_signed,
        fig,
    )
    return None if shown(show) else (figure, axes)


def plot_sequence(
    result: AnswerMaps,
    show: bool,
    image: int,
    ax: Axes | None,
    fig: Figure | SubFigure | None,
) -> tuple[Figure, Axes] | None:
    """See :meth:`VLMAttributionResult.plot_sequence`."""
    if ax is not None and fig is not None:
        raise ValueError(
            "ax and fig were both given. Pass ax for the map alone, or fig for the "
            "image and the map."
        )
    canvas = Canvas(result, image, 1 if fig is None else 2)
    drawn = canvas.pixels, canvas.heat(None), canvas.unseen, result.answer
    if ax is None:
        figure, axis = sequence_figure(*drawn, result.is_signed, fig)
    else:
        sequence_panel(ax, *drawn, result.is_signed)
        figure, axis = ax.get_figure(), ax
    return None if shown(show) else (figure, axis)


def plot_layers(
    result: AnswerMaps,
    tokens: Sequence[int] | None,
    show: bool,
    fig: Figure | SubFigure | None,
) -> tuple[Figure, Any] | None:
    """See :meth:`VLMAttributionResult.plot_layers`."""
    if result.layer_maps is None or result.layer_indices is None:
        raise ValueError(
            f"{result.method} has no maps of single layers here. LayerDexAR keeps "
            "those of long answers with attribute(..., keep_layers=True)."
        )
    if tokens is None:
        tokens = (~result.special_tokens).nonzero()[:, 0].tolist()
    if not tokens:
        raise ValueError("There is no token to draw: the answer has special ones only.")
    maps = result.layer_maps
    if not isinstance(maps, Tensor):
        raise ValueError(
            f"The prompt has {len(maps)} images; draw one with "
            "result.of_image(index).plot_layers()."
        )
    maps = maps[list(tokens)]
    largest = maps.abs().amax(dim=(1, 2, 3), keepdim=True)
    relative = maps / largest.masked_fill(largest <= 0, 1.0)
    canvas = Canvas(result, 0, len(tokens) * len(result.layer_indices))
    figure, axes = layer_figure(
        canvas.pixels,
        ((canvas.painted(layer) for layer in row) for row in relative),
        [result.output_tokens[token] for token in tokens],
        [f"layer {index}" for index in result.layer_indices],
        canvas.unseen,
        "share of the largest value in the row",
        bool((maps < 0).any()),
        fig,
    )
    return None if shown(show) else (figure, axes)


def plot_image_heatmap(
    result: AnswerMaps,
    show: bool,
    target_token_pos: int | tuple[int, int] | None,
    border_width: int,
    show_legends: bool,
) -> tuple[Figure, Axes] | None:
    """See :meth:`VLMAttributionResult.plot_image_heatmap`."""
    if result.layout.num_images > 1:
        raise ValueError(
            f"The prompt has {result.layout.num_images} images; draw one with "
            "result.of_image(index).plot_image_heatmap()."
        )
    small = copy.copy(result)
    small.inp = display_input(known_image(result), result.layout)
    drawn: Any = LLMAttributionResult.plot_image_heatmap(
        small, False, target_token_pos, border_width, show_legends
    )
    return readable(drawn, show)


def readable(drawn: tuple[Figure, Axes], show: bool) -> tuple[Figure, Axes] | None:
    """A figure of Captum, with its texts as they are; shown if asked to."""
    show_as_it_is(drawn[0])
    return None if shown(show) else drawn


def _opacity(result: AnswerMaps, parts: Sequence[Word]) -> list[float]:
    if result.token_weights is None:
        return [1.0] * len(parts)
    weights = [part.weight or 0.0 for part in parts]
    largest = max(weights, default=0.0) or 1.0
    return [FAINTEST + (1 - FAINTEST) * weight / largest for weight in weights]


def parts_of(result: AnswerMaps, words: bool) -> list[Word]:
    """The parts with one panel each: words, or all tokens with special ones."""
    if words:
        return result.words()
    return result.words_from([[token] for token in range(len(result.output_tokens))])


def caption_of(word: Word) -> str:
    """A word's weight, if the method has weights."""
    return "" if word.weight is None else f"weight {word.weight:.3g}"


def shown(show: bool) -> bool:
    """Shows the current figure if asked to; returns ``show``."""
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return show
