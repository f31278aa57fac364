"""Scenes of letters and digits: characters, exact masks, caption, questions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from captum_dexar.letters.drawing import (
    draw_character,
    finish,
    Glyph,
    glyph_coverage,
    IMAGE_SIZE,
)
from captum_dexar.letters.glyphs import FONTS
from captum_dexar.letters.language import (
    caption_words,
    CHARACTERS,
    COLOURS,
    questions,
    SIZES,
)
from captum_dexar.letters.textures import draw_background
from captum_dexar.worlds import scene
from captum_dexar.worlds.arrangement import is_clearly_arranged
from captum_dexar.worlds.words import CaptionWord, Question
from PIL import Image

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]

HEIGHT_RANGES = {"small": (20.0, 24.0), "big": (32.0, 40.0)}
MAX_ROTATION = 0.1
# Pixels between the boxes of two characters, and between a box and the border.
GAP = 2.0
LAYOUTS_PER_TRY = 48
# A pixel belongs to a character that covers so much of it.
MIN_COVERAGE = 0.5


@dataclass(frozen=True, eq=False)
class Character:
    """One character of a scene.

    Attributes:
        character (str): a letter of C, E, K, M, P, T, V and X, or a digit of 2, 4, 5
            and 7
        colour (str): ``"red"``, ``"green"``, ``"blue"``, ``"yellow"``, ``"pink"`` or
            ``"white"``
        size (str): ``"small"`` (20 to 24 pixels high) or ``"big"`` (32 to 40)
        center (tuple of float): ``(x, y)`` in pixels; the centre of the top left pixel
            is (0.5, 0.5)
        height (float): height in pixels before it was turned
        rotation (float): angle in radians, clockwise, at most 0.1 either way
        font (str): the name of the font
        mask (numpy.ndarray): ``(96, 96)`` bool, read-only: the pixels of which the
            character covers at least half
    """

    character: str
    colour: str
    size: str
    center: tuple[float, float]
    height: float
    rotation: float
    font: str
    mask: BoolArray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Scene(scene.Scene):
    """A drawn scene and its ground truth.

    Attributes:
        seed (int): the seed it was drawn from
        image (PIL.Image.Image): RGB, 96 x 96 pixels
        objects (tuple of Character): one to three, of different colours
        caption_words (tuple of CaptionWord): the caption's words with their kinds and
            objects
        questions (tuple of Question): questions with their answers
    """

    objects: tuple[Character, ...]

    @classmethod
    def draw(
        cls, count: int, left_out: Collection[int], rng: np.random.Generator
    ) -> tuple[tuple[Character, ...], Image.Image]:
        """See :meth:`captum_dexar.worlds.scene.Scene.draw`."""
        return _draw(count, left_out, rng)

    @staticmethod
    def describe(objects: Sequence[Character]) -> tuple[CaptionWord, ...]:
        """See :func:`captum_dexar.letters.language.caption_words`."""
        return caption_words(objects)

    @staticmethod
    def ask(
        objects: Sequence[Character], rng: np.random.Generator
    ) -> tuple[Question, ...]:
        """See :func:`captum_dexar.letters.language.questions`."""
        return questions(objects, rng)


def make_scene(seed: int, *, num_objects: int | None = None) -> Scene:
    """Draws a scene from a seed.

    The same arguments give the same scene. Seeds from 1,000,000 are for training.

    Args:
        seed (int): any non-negative integer
        num_objects (int, optional): number of characters, 1 to 3. Default: None, a
            random number

    Returns:
        Scene

    Raises:
        ValueError: ``seed`` is negative, or ``num_objects`` is not 1, 2 or 3.

    Examples::

        >>> from captum_dexar.letters import make_scene
        >>> scene = make_scene(7, num_objects=2)
        >>> scene.image.size
        (96, 96)
        >>> scene.caption
        'there are two characters : ...'
    """
    return Scene.drawn(seed, num_objects)


def _draw(
    count: int, left_out: Collection[int], rng: np.random.Generator
) -> tuple[tuple[Character, ...], Image.Image]:
    """All characters, and the image without those that are left out."""
    sizes, glyphs, centers = _draw_layout(count, rng)
    colours = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:count]]

    canvas = draw_background(IMAGE_SIZE, rng)
    objects = []
    for index, (size, glyph, center, colour) in enumerate(
        zip(sizes, glyphs, centers, colours)
    ):
        covered = glyph_coverage(glyph, center)
        # Drawn in any case: what follows has to get the same random numbers.
        drawn_on = canvas.copy() if index in left_out else canvas
        draw_character(drawn_on, covered, colour, rng)
        mask = covered >= MIN_COVERAGE
        mask.setflags(write=False)
        objects.append(
            Character(
                character=glyph.character,
                colour=colour,
                size=size,
                center=center,
                height=glyph.height,
                rotation=glyph.rotation,
                font=glyph.font,
                mask=mask,
            )
        )
    return tuple(objects), Image.fromarray(finish(canvas, rng))


def _draw_layout(
    count: int, rng: np.random.Generator
) -> tuple[list[str], list[Glyph], list[tuple[float, float]]]:
    """Sizes, glyphs and centres of different characters that fit."""
    fonts = tuple(FONTS)
    characters = rng.permutation(len(CHARACTERS))[:count]
    while True:
        sizes = [SIZES[i] for i in rng.integers(len(SIZES), size=count)]
        glyphs = [
            Glyph(
                character=CHARACTERS[index],
                font=fonts[int(rng.integers(len(fonts)))],
                height=float(rng.uniform(*HEIGHT_RANGES[size])),
                rotation=float(rng.uniform(-MAX_ROTATION, MAX_ROTATION)),
            )
            for index, size in zip(characters, sizes)
        ]
        half = np.array([glyph.half_extent() for glyph in glyphs])
        centers = rng.uniform(
            half + GAP, IMAGE_SIZE - GAP - half, size=(LAYOUTS_PER_TRY, count, 2)
        )
        fits = is_clearly_arranged(centers) & _are_apart(centers, half)
        if fits.any():
            x, y = centers[int(np.argmax(fits))].T.tolist()
            return sizes, glyphs, list(zip(x, y))


def _are_apart(centers: FloatArray, half: FloatArray) -> BoolArray:
    """Which layouts keep the characters' boxes apart.

    Args:
        centers (ndarray): ``(layouts, count, 2)``
        half (ndarray): half of the widths and heights, ``(count, 2)``
    """
    first, second = np.triu_indices(len(half), 1)
    gap = np.abs(centers[:, first] - centers[:, second])
    is_apart = (gap >= half[first] + half[second] + GAP).any(axis=2)
    every: BoolArray = np.logical_and.reduce(is_apart, axis=1)
    return every
