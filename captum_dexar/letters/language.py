"""Captions and questions, and the characters that their words refer to."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from captum_dexar.worlds.arrangement import arranged, from_left, ORDER_MARGIN
from captum_dexar.worlds.words import CaptionWord, Question, words_of

# None looks like another one, in any of the fonts. Without A: it is a word, too.
LETTERS = ("C", "E", "K", "M", "P", "T", "V", "X")
DIGITS = ("2", "4", "5", "7")
CHARACTERS = (*LETTERS, *DIGITS)
COLOURS = ("red", "green", "blue", "yellow", "pink", "white")
SIZES = ("small", "big")
NUMBERS = ("zero", "one", "two", "three")

CAPTION_PROMPT = "describe the image ."

QUESTION_KINDS = (
    "character",
    "colour",
    "colour exists",
    "character exists",
    "exists",
    "count",
    "digits",
    "left",
    "spelling",
)


class Describable(Protocol):
    """The properties of a character that captions and questions use."""

    @property
    def character(self) -> str: ...

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
        CaptionWord(item.character, "character", (index,)),
    ]


def caption_words(objects: Sequence[Describable]) -> tuple[CaptionWord, ...]:
    """The words of the caption of one to three characters, of the kinds ``"colour"``,
    ``"character"``, ``"size"``, ``"count"``, ``"relation"`` and ``"filler"``.

    First comes their number, then each in the order of
    :func:`captum_dexar.worlds.arrangement.arranged`.
    """
    count = len(objects)
    every = tuple(range(count))
    words = words_of("there is" if count == 1 else "there are")
    words += words_of(NUMBERS[count], "count", every)
    words += words_of("character :" if count == 1 else "characters :")
    words += arranged(objects, lambda index: _noun_phrase(objects[index], index))
    return tuple(words + words_of("."))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _with_article(character: str) -> str:
    return f"an {character}" if character in "EMX" else f"a {character}"


def _missing_pair(
    objects: Sequence[Describable], rng: np.random.Generator
) -> tuple[str, str]:
    """A colour and a character that occur, but not together, or only one of which
    occurs."""
    index = int(rng.integers(len(objects)))
    item, others = objects[index], [*objects[:index], *objects[index + 1 :]]
    choice = int(rng.integers(3))
    if choice == 0 and others:
        return item.colour, _pick([other.character for other in others], rng)
    if choice <= 1:
        return item.colour, _pick(_absent(CHARACTERS, objects, "character"), rng)
    return _pick(_absent(COLOURS, objects, "colour"), rng), item.character


def _absent(
    names: Sequence[str], objects: Sequence[Describable], attribute: str
) -> list[str]:
    present = {getattr(item, attribute) for item in objects}
    return [name for name in names if name not in present]


def questions(
    objects: Sequence[Describable], rng: np.random.Generator
) -> tuple[Question, ...]:
    """Ten to sixteen questions, of every kind that is unambiguous for the characters.

    ``"exists"`` asks for a colour and a character together. Questions about existence
    come in pairs, one answered yes and one answered no.
    """
    asked = []
    for item in objects:
        text = f"which character is {item.colour} ?"
        asked.append(Question(text, item.character, "character"))
    for item in objects:
        text = f"what color is the {item.character} ?"
        asked.append(Question(text, item.colour, "colour"))
    for answer, colour in (
        ("yes", _pick([item.colour for item in objects], rng)),
        ("no", _pick(_absent(COLOURS, objects, "colour"), rng)),
    ):
        text = f"is there anything {colour} ?"
        asked.append(Question(text, answer, "colour exists"))
    for answer, character in (
        ("yes", _pick([item.character for item in objects], rng)),
        ("no", _pick(_absent(CHARACTERS, objects, "character"), rng)),
    ):
        text = f"is there {_with_article(character)} ?"
        asked.append(Question(text, answer, "character exists"))
    present = objects[int(rng.integers(len(objects)))]
    for answer, (colour, character) in (
        ("yes", (present.colour, present.character)),
        ("no", _missing_pair(objects, rng)),
    ):
        text = f"is there a {colour} {character} ?"
        asked.append(Question(text, answer, "exists"))
    digits = sum(item.character in DIGITS for item in objects)
    for name, kind, count in (
        ("characters", "count", len(objects)),
        ("digits", "digits", digits),
    ):
        asked.append(Question(f"how many {name} are there ?", NUMBERS[count], kind))
    order = from_left(objects)
    places = [objects[index].center[0] for index in order]
    gaps = np.diff(places)
    if len(objects) > 1 and gaps[0] >= ORDER_MARGIN:
        item = objects[order[0]]
        phrase = f"a {item.size} {item.colour} {item.character}"
        asked.append(Question("what is on the left ?", phrase, "left"))
    if (gaps >= ORDER_MARGIN).all():
        spelt = " ".join(objects[index].character for index in order)
        asked.append(Question("what is written ?", spelt, "spelling"))
    return tuple(asked)
