"""The plots of a result."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

from captum.attr import LLMAttributionResult
from captum_dexar.maps.image_tokens import display_input
from captum_dexar.result import how_to_read
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.canvas import Canvas, known_image
from captum_dexar.result.selection import chosen_word, selected_tokens, WordChoice
from captum_dexar.result.word_strength import (
    checked_scale,
    is_zero,
    NO_EVIDENCE,
    opacity_of,
    shares_of,
    strengths,
    strongest,
    word_panels,
)
from captum_dexar.result.words import Word
from captum_dexar.visualization import (
    check_axes_or_figure,
    check_figure,
    head_figure,
    head_panel,
    layer_figure,
    Plot,
    sequence_figure,
    sequence_panel,
    show_as_it_is,
    show_figure,
    TintedWord,
    token_figure,
    word_figure,
    word_panel,
)
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def plot_tokens(
    result: AnswerMaps,
    words: bool,
    show: bool,
    image: int,
    fig: Figure | SubFigure | None,
    scale: str,
    max_words: int | None,
    legend: bool,
) -> Plot | None:
    """See :meth:`VLMAttributionResult.plot_tokens`."""
    check_figure(fig)
    parts = parts_of(result, words)
    panels = word_panels(result, parts, scale)
    kept = strongest(strengths(result, parts), max_words)
    drawn = [panels[place] for place in kept]
    canvas = Canvas(result, image, len(kept) + 1)
    has_stripes = bool(canvas.unseen.any())
    lines = how_to_read.token_legend(result, drawn, len(parts), scale, has_stripes)
    figure, axes = token_figure(
        canvas.pixels,
        drawn,
        (canvas.heat(parts[place]) for place in kept),
        canvas.unseen,
        how_to_read.token_heading(result) if legend else "",
        how_to_read.image_title(result, image),
        how_to_read.scale_label(result),
        lines if legend else (),
        result.is_signed,
        fig,
    )
    return given_or_shown(figure, axes, show)


def plot_words(
    result: AnswerMaps,
    show: bool,
    image: int,
    ax: Axes | None,
    fig: Figure | SubFigure | None,
    scale: str,
    max_words: int,
    legend: bool,
) -> Plot | None:
    """See :meth:`VLMAttributionResult.plot_words`."""
    check_axes_or_figure(ax, fig, "the text alone", "the text and the maps")
    parts = result.words()
    shares = strengths(result, parts)
    answer = [TintedWord(part.text, share) for part, share in zip(parts, shares)]
    panels = word_panels(result, parts, scale)
    kept = [p for p in strongest(shares, max_words) if panels[p].caption != NO_EVIDENCE]
    if result.token_weights is not None:
        kept = [place for place in kept if shares[place] > 0]
    if ax is not None:
        word_panel(ax, answer)
        return given_or_shown(ax.get_figure(), ax, show)
    drawn = [panels[place] for place in kept]
    canvas = Canvas(result, image, len(kept) + 1)
    lines = how_to_read.word_legend(
        result, drawn, len(parts), scale, bool(canvas.unseen.any())
    )
    figure, axes = word_figure(
        canvas.pixels,
        answer,
        drawn,
        (canvas.heat(parts[place]) for place in kept),
        canvas.unseen,
        how_to_read.token_heading(result) if legend else "",
        how_to_read.image_title(result, image),
        how_to_read.scale_label(result),
        lines if legend else (),
        result.is_signed,
        fig,
    )
    return given_or_shown(figure, axes, show)


def plot_sequence(
    result: AnswerMaps,
    show: bool,
    image: int,
    ax: Axes | None,
    fig: Figure | SubFigure | None,
    legend: bool,
) -> Plot | None:
    """See :meth:`VLMAttributionResult.plot_sequence`."""
    check_axes_or_figure(ax, fig, "the map alone", "the image and the map")
    canvas = Canvas(result, image, 1 if fig is None else 2)
    drawn = canvas.pixels, canvas.heat(None), canvas.unseen, result.answer
    has_no_map = is_zero(result, None)
    if ax is not None:
        sequence_panel(ax, *drawn, NO_EVIDENCE if has_no_map else "", result.is_signed)
        return given_or_shown(ax.get_figure(), ax, show)
    lines = how_to_read.sequence_legend(result, bool(canvas.unseen.any()), has_no_map)
    figure, axis = sequence_figure(
        *drawn,
        how_to_read.image_title(result, image),
        f"whole answer{f': {NO_EVIDENCE}' if has_no_map else ''}",
        how_to_read.scale_label(result),
        lines if legend else (),
        result.is_signed,
        fig,
    )
    return given_or_shown(figure, axis, show)


def plot_layers(
    result: AnswerMaps,
    tokens: Sequence[int] | None,
    show: bool,
    fig: Figure | SubFigure | None,
    scale: str,
    max_words: int | None,
    legend: bool,
) -> Plot | None:
    """See :meth:`VLMAttributionResult.plot_layers`."""
    check_figure(fig)
    checked_scale(scale)
    if result.layer_maps is None or result.layer_indices is None:
        raise ValueError(
            f"{result.method} has no maps of single layers here. LayerDexAR keeps "
            "those of long answers with attribute(..., keep_layers=True)."
        )
    reason = "tokens is empty"
    if tokens is None:
        tokens = (~result.special_tokens).nonzero()[:, 0].tolist()
        reason = "the answer has special ones only"
    if not len(tokens):
        raise ValueError(f"There is no token to draw: {reason}.")
    tokens = selected_tokens(list(tokens), len(result.output_tokens))
    maps = result.layer_maps
    if not isinstance(maps, Tensor):
        raise ValueError(
            f"The prompt has {len(maps)} images; draw one with "
            "result.of_image(index).plot_layers()."
        )
    rows = result.words_from([[token] for token in tokens])
    kept = strongest(strengths(result, rows), max_words)
    note = ""
    if len(kept) < len(rows):
        note = how_to_read.strongest_of(len(kept), len(rows))
    maps = maps[[tokens[place] for place in kept]]
    largest = maps.abs().amax(dim=(1, 2, 3))
    relative = maps / largest.masked_fill(largest <= 0, 1.0)[:, None, None, None]
    opacities = [1.0] * len(kept)
    if scale == "shared":
        opacities = [opacity_of(share) for share in shares_of(largest).tolist()]
    canvas = Canvas(result, 0, len(kept) * len(result.layer_indices))
    signed = bool((maps < 0).any())
    lines = how_to_read.layer_legend(
        result, signed, scale, note, bool(canvas.unseen.any())
    )
    figure, axes = layer_figure(
        canvas.pixels,
        ((canvas.painted(layer) for layer in row) for row in relative),
        opacities,
        [rows[place].text for place in kept],
        [f"layer {index}" for index in result.layer_indices],
        canvas.unseen,
        "What each layer contributes to each token" if legend else "",
        "share of the row's largest value",
        lines if legend else (),
        signed,
        fig,
    )
    return given_or_shown(figure, axes, show)


def plot_heads(
    result: AnswerMaps,
    word: WordChoice,
    show: bool,
    ax: Axes | None,
    fig: Figure | SubFigure | None,
    legend: bool,
) -> Plot | None:
    """See :meth:`VLMAttributionResult.plot_heads`."""
    check_axes_or_figure(ax, fig, "the table alone", "the table and its colour bar")
    if result.head_weights is None:
        raise ValueError(
            f"{result.method} has no weights of single heads here. LayerDexAR keeps "
            "those of long answers with attribute(..., keep_layers=True)."
        )
    selection = chosen_word(word, result.words())
    tokens = selected_tokens(selection, len(result.output_tokens))
    weights = result.head_weights[tokens].double().mean(0)
    layers = result.layer_indices or list(range(len(weights)))
    (part,) = result.words_from([tokens])
    title = f"Heads that turn to the image for “{part.text}”"
    if selection is None:
        title = "Heads that turn to the image, mean of the whole answer"
    if ax is not None:
        head_panel(ax, weights.numpy(), layers, title)
        return given_or_shown(ax.get_figure(), ax, show)
    lines = how_to_read.head_legend(result, bool(weights.isnan().any()))
    figure, axis = head_figure(
        weights.numpy(),
        layers,
        title,
        "head weight",
        lines if legend else (),
        fig,
    )
    return given_or_shown(figure, axis, show)


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
    if show:
        show_figure(drawn[0])
    return None if show else drawn


def parts_of(result: AnswerMaps, words: bool) -> list[Word]:
    """The parts with one panel each: words, or all tokens with special ones."""
    if words:
        return result.words()
    return result.words_from([[token] for token in range(len(result.output_tokens))])


def caption_of(word: Word) -> str:
    """A word's weight, if the method has weights."""
    return "" if word.weight is None else f"weight {word.weight:.3g}"


def given_or_shown(figure: Any, axes: Any, show: bool) -> Plot | None:
    """What a plot returns: the figure and its axes, or None if it is shown."""
    if not show:
        return Plot(figure, axes)
    show_figure(figure)
    return None
