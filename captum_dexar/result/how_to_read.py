"""What figures say about themselves, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.word_strength import NO_EVIDENCE
from captum_dexar.visualization import WordPanel
from captum_dexar.visualization.legend import Legend

Lines = list[tuple[str, str]]

UNSIGNED_SCALE = "support, from least to most"
SIGNED_SCALE = "lowers (blue), raises (red)"


def token_heading(result: AnswerMaps) -> str:
    """The heading of figures with a panel per word."""
    verb = "raises or lowers" if result.is_signed else "supports"
    return f"What in the image {verb} each word of the answer"


def scale_label(result: AnswerMaps) -> str:
    """The label of the colour bar."""
    return SIGNED_SCALE if result.is_signed else UNSIGNED_SCALE


def image_title(result: AnswerMaps, image: int) -> str:
    """The title above an image."""
    count = result.layout.num_images
    return "image" if count == 1 else f"image {image + 1} of {count}"


def strongest_of(count: int, total: int) -> str:
    """What is drawn of all words or tokens."""
    return f"the {f'{count} ' if count > 1 else ''}strongest of {total}."


def token_legend(
    result: AnswerMaps,
    drawn: Sequence[WordPanel],
    num_words: int,
    scale: str,
    has_stripes: bool,
) -> Legend:
    """How to read :meth:`VLMAttributionResult.plot_tokens`.

    Args:
        result (AnswerMaps): the result
        drawn (sequence of WordPanel): the words that are drawn
        num_words (int): number of the answer's words
        scale (str): ``"shared"`` or ``"word"``
        has_stripes (bool): whether some pixels are covered by no token
    """
    lines = [_colour(result, "word"), *_strength(result, drawn, scale)]
    if any(panel.caption == NO_EVIDENCE for panel in drawn):
        lines.append(
            ("No visual evidence", "no place in the image stands out for the word.")
        )
    if len(drawn) < num_words:
        lines.append(("Words", strongest_of(len(drawn), num_words)))
    return [*lines, *_common(result, has_stripes)]


def word_legend(
    result: AnswerMaps,
    drawn: Sequence[WordPanel],
    num_words: int,
    scale: str,
    has_stripes: bool,
) -> Legend:
    """How to read :meth:`VLMAttributionResult.plot_words`; see :func:`token_legend`."""
    if result.token_weights is None:
        text = "the stronger the tint, the larger the word's values."
        plain = ""
    else:
        text = (
            "the stronger the tint of a word, the larger its weight: "
            f"{_weight(result)}."
        )
        plain = " Words without a tint are supported by the text at least as much."
    maps = strongest_of(len(drawn), num_words)
    if not drawn:
        maps = "none: no word is supported by the image more than by the text."
    lines = [("Text", text + plain), ("Maps", maps)]
    if drawn:
        lines.append(_colour(result, "word"))
    if drawn and scale == "shared":
        lines.append(("Opacity, bar", "how much, as the tint of the word."))
    return [*lines, *_common(result, has_stripes)]


def sequence_legend(result: AnswerMaps, has_stripes: bool, is_zero: bool) -> Legend:
    """How to read :meth:`VLMAttributionResult.plot_sequence`."""
    lines = [_colour(result, "answer")]
    if result.token_weights is not None:
        lines.append(
            (
                "Weight",
                f"each word counts with its weight: {_weight(result)}.",
            )
        )
    if is_zero:
        lines.append(
            (
                "No visual evidence",
                (
                    "the image supports no word more than the text before it does."
                    if result.token_weights is not None
                    else "no place in the image stands out."
                ),
            )
        )
    return [*lines, *_common(result, has_stripes)]


def layer_legend(
    result: AnswerMaps, signed: bool, scale: str, note: str, has_stripes: bool
) -> Legend:
    """How to read :meth:`VLMAttributionResult.plot_layers`."""
    colour = (
        "red places raise the token in this layer, blue places lower it."
        if signed
        else "the brighter a place, the more it supports the token in this layer."
    )
    lines = [("Colour", f"{colour} Each row is scaled to its largest value.")]
    if scale == "shared":
        lines.append(
            ("Opacity", "the clearer a row, the larger its values among all rows.")
        )
    if note:
        lines.append(("Rows", note))
    return [*lines, *_common(result, has_stripes)]


def head_legend(result: AnswerMaps, has_gaps: bool) -> Legend:
    """How to read :meth:`VLMAttributionResult.plot_heads`."""
    lines = [
        (
            "Colour",
            "the brighter a head, the more it would raise the word by attending to the "
            "image rather than to the text.",
        ),
        ("Black", "the head responds to the text at least as much: it is left out."),
    ]
    if has_gaps:
        lines.append(("Grey", "the layer has no such head."))
    return [*lines, *_method(result)]


def _colour(result: AnswerMaps, what: str) -> tuple[str, str]:
    if result.is_signed:
        where = f"red places raise the {what}, blue places lower it."
    else:
        where = f"where: the brighter a place, the more it supports the {what}"
        where += f"{_rather_than(result)}."
    if what == "word":
        where += " Each map is scaled to its own largest value."
    return "Colour", where


def _rather_than(result: AnswerMaps) -> str:
    """What words are contrasted with."""
    if result.rival_ids is None:
        return ""
    count = result.rival_ids.shape[1]
    others = "token" if count == 1 else f"{count} tokens"
    return f" rather than the {others} that the model would choose next"


def _weight(result: AnswerMaps) -> str:
    """What the weight of a word says."""
    if result.rival_ids is None:
        return "how much more the image supports the word than the text before it does"
    return (
        "by how much the image exceeds the text before it in supporting the word"
        f"{_rather_than(result)}, from 0 to 1"
    )


def _strength(result: AnswerMaps, drawn: Sequence[WordPanel], scale: str) -> Lines:
    meaning = _weight(result)
    if scale == "word":
        own = "Maps are not faded: compare places within a map, but not maps."
        if result.token_weights is None:
            return [("Scale", own)]
        return [("Bar", f"the weight: {meaning}. {own}")]
    if result.token_weights is None:
        return [
            (
                "Opacity, bar",
                "how much: the clearer the map, the larger the word's values. The "
                "largest of all words are 100%.",
            )
        ]
    lines = [
        (
            "Opacity, bar",
            "how much: the clearer the map, the larger the weight, that is, "
            f"{meaning}.",
        )
    ]
    if any(panel.caption.startswith("weight 0 ") for panel in drawn):
        lines.append(
            (
                "Weight 0",
                "the text before the word supports it at least as much as the image "
                "does, so the image is shown plain, without a map.",
            )
        )
    return lines


def _common(result: AnswerMaps, has_stripes: bool) -> Lines:
    """What all figures of maps have in common."""
    lines = []
    if result.layout.num_images > 1:
        lines.append(
            (
                "Images",
                "all images of the prompt share one scale: what supports a word may "
                "lie on another one.",
            )
        )
    if result.layout.approximation:
        lines.append(("Places", result.layout.approximation))
    if has_stripes:
        lines.append(("Stripes", "parts of the image that the model does not see."))
    return [*lines, *_method(result)]


def _method(result: AnswerMaps) -> Lines:
    return [("Method", f"{result.method}.")] if result.method else []
