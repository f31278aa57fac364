"""Captions and questions, and the objects that their words refer to."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from captum_dexar.worlds.arrangement import arranged, ORDER_MARGIN
from captum_dexar.worlds.words import CaptionWord, Question, words_of

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SIZES = ("small", "large")
NUMBERS = ("one", "two", "three")

CAPTION_PROMPT = "describe the image ."

QUESTION_KINDS = ("shape", "colour exists", "shape exists", "exists", "count", "left")


class Describable(Protocol):
    """The properties of an object that captions and questions use."""

    @property
    def shape(self) -> str: ...

    @property
    def colour(self) -> str: ...

    @property
    def size(self) -> str: ...

    @property
    def center(self) -> tuple[float, float]: ...


def _noun_phrase(item: Describable, index: int) -> list[CaptionWord]:
    return [
        CaptionWord("a", "filler"),
        CaptionWord(item.size, "size", (index,)),
        CaptionWord(item.colour, "colour", (index,)),
        CaptionWord(item.shape, "shape", (index,)),
    ]


def caption_words(objects: Sequence[Describable]) -> tuple[CaptionWord, ...]:
    """The words of the caption of one to three objects, of the kinds ``"colour"``,
    ``"shape"``, ``"size"``, ``"relation"`` and ``"filler"``.

    Their order is that of :func:`captum_dexar.worlds.arrangement.arranged`.
    """
    words = words_of("the image shows")
    words += arranged(objects, lambda index: _noun_phrase(objects[index], index))
    return tuple(words + words_of("."))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _pair_question(colour: str, shape: str, answer: str) -> Question:
    article = "an" if colour[0] in "aeiou" else "a"
    return Question(f"is there {article} {colour} {shape} ?", answer, "exists")


def _missing_pair(
    objects: Sequence[Describable], rng: np.random.Generator
) -> tuple[str, str]:
    """A colour and a shape of which at least one occurs, but not on the same object."""
    item = objects[int(rng.integers(len(objects)))]
    pairs = {(other.colour, other.shape) for other in objects}
    swapped = [
        (item.colour, other.shape)
        for other in objects
        if (item.colour, other.shape) not in pairs
    ]
    choice = int(rng.integers(3))
    if choice == 0 and swapped:
        return swapped[int(rng.integers(len(swapped)))]
    if choice <= 1:
        shapes = [name for name in SHAPES if (item.colour, name) not in pairs]
        return item.colour, _pick(shapes, rng)
    colours = [name for name in COLOURS if (name, item.shape) not in pairs]
    return _pick(colours, rng), item.shape


def questions(
    objects: Sequence[Describable], rng: np.random.Generator
) -> tuple[Question, ...]:
    """Eight to eleven questions, of every kind that is unambiguous for the objects.

    ``"exists"`` asks for a colour and a shape together.

    Questions about existence come in pairs, one answered yes and one answered no.
    """
    colours = [item.colour for item in objects]
    shapes = sorted({item.shape for item in objects})
    asked = [
        Question(f"what shape is the {item.colour} object ?", item.shape, "shape")
        for item in objects
    ]
    for answer, colour in (
        ("yes", _pick(colours, rng)),
        ("no", _pick([name for name in COLOURS if name not in colours], rng)),
    ):
        text = f"is there anything {colour} ?"
        asked.append(Question(text, answer, "colour exists"))
    for answer, shape in (
        ("yes", _pick(shapes, rng)),
        ("no", _pick([name for name in SHAPES if name not in shapes], rng)),
    ):
        text = f"is there a {shape} ?"
        asked.append(Question(text, answer, "shape exists"))
    present = objects[int(rng.integers(len(objects)))]
    asked.append(_pair_question(present.colour, present.shape, "yes"))
    asked.append(_pair_question(*_missing_pair(objects, rng), "no"))
    number = NUMBERS[len(objects) - 1]
    asked.append(Question("how many objects are there ?", number, "count"))
    by_x = sorted(objects, key=lambda item: item.center[0])
    if len(by_x) > 1 and by_x[1].center[0] - by_x[0].center[0] >= ORDER_MARGIN:
        item = by_x[0]
        answer = f"a {item.size} {item.colour} {item.shape}"
        asked.append(Question("what is on the left ?", answer, "left"))
    return tuple(asked)
