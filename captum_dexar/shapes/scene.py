"""Scenes and their ground truth: objects, exact masks, caption, questions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from captum_dexar.shapes.drawing import (
    BoolArray,
    draw_background,
    draw_object,
    finish,
    IMAGE_SIZE,
    Outline,
)
from captum_dexar.shapes.language import (
    caption_words,
    COLOURS,
    questions,
    SHAPES,
    SIZES,
)
from captum_dexar.worlds import scene
from captum_dexar.worlds.arrangement import is_clearly_arranged
from captum_dexar.worlds.words import CaptionWord, Question
from PIL import Image

RADIUS_RANGES = {"small": (10.0, 13.0), "large": (16.5, 21.0)}
MAX_ROTATION = 0.1
# Pixels between two objects.
OBJECT_GAP = 2.0
LAYOUTS_PER_TRY = 48


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape (str): ``"circle"``, ``"square"``, ``"triangle"``, ``"star"``, ``"cross"``
            or ``"ring"``
        colour (str): ``"red"``, ``"green"``, ``"blue"``, ``"yellow"``, ``"purple"``,
            ``"orange"``, ``"cyan"`` or ``"white"``
        size (str): ``"small"`` (a radius of 10 to 13 pixels) or ``"large"`` (16.5 to
            21)
        center (tuple of float): ``(x, y)`` in pixels; the centre of the top left pixel
            is (0.5, 0.5)
        radius (float): radius in pixels of the circle that the object fits into
        rotation (float): angle in radians, at most 0.1 either way
        mask (numpy.ndarray): ``(96, 96)`` bool, read-only: the pixels whose centre lies
            in the object
    """

    shape: str
    colour: str
    size: str
    center: tuple[float, float]
    radius: float
    rotation: float
    mask: BoolArray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Scene(scene.Scene):
    """A drawn scene and its ground truth.

    Attributes:
        seed (int): the seed it was drawn from
        image (PIL.Image.Image): RGB, 96 x 96 pixels
        objects (tuple of SceneObject): one to three, all of different colours
        caption_words (tuple of CaptionWord): the caption's words with their kinds and
            objects
        questions (tuple of Question): questions with their answers
    """

    objects: tuple[SceneObject, ...]

    @classmethod
    def draw(
        cls, count: int, left_out: Collection[int], rng: np.random.Generator
    ) -> tuple[tuple[SceneObject, ...], Image.Image]:
        """See :meth:`captum_dexar.worlds.scene.Scene.draw`."""
        return _draw(count, left_out, rng)

    @staticmethod
    def describe(objects: Sequence[SceneObject]) -> tuple[CaptionWord, ...]:
        """See :func:`captum_dexar.shapes.language.caption_words`."""
        return caption_words(objects)

    @staticmethod
    def ask(
        objects: Sequence[SceneObject], rng: np.random.Generator
    ) -> tuple[Question, ...]:
        """See :func:`captum_dexar.shapes.language.questions`."""
        return questions(objects, rng)


def _draw_layout(
    count: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sizes, radii ``(count,)`` and centres ``(count, 2)`` of objects that fit."""
    while True:
        sizes = tuple(SIZES[i] for i in rng.integers(len(SIZES), size=count))
        radii = np.array([rng.uniform(*RADIUS_RANGES[size]) for size in sizes])
        low, high = radii[:, None] + 1, IMAGE_SIZE - 1 - radii[:, None]
        centers = rng.uniform(low, high, size=(LAYOUTS_PER_TRY, count, 2))
        fits = is_clearly_arranged(centers)
        for first in range(count):
            for second in range(first + 1, count):
                gap = np.abs(centers[:, first] - centers[:, second])
                apart = radii[first] + radii[second] + OBJECT_GAP
                fits &= np.hypot(gap[:, 0], gap[:, 1]) >= apart
        if fits.any():
            return sizes, radii, centers[int(np.argmax(fits))]


def make_scene(seed: int, *, num_objects: int | None = None) -> Scene:
    """Draws a scene from a seed.

    The same arguments give the same scene. The bundled model was not trained on seeds
    below 1,000,000.

    Args:
        seed (int): any non-negative integer
        num_objects (int, optional): number of objects, 1 to 3. Default: None, a random
            number

    Returns:
        Scene

    Raises:
        ValueError: ``seed`` is negative, or ``num_objects`` is not 1, 2 or 3.

    Examples::

        >>> scene = make_scene(7, num_objects=2)
        >>> scene.image.size
        (96, 96)
        >>> len(scene.objects)
        2
    """
    return Scene.drawn(seed, num_objects)


def _draw(
    count: int, left_out: Collection[int], rng: np.random.Generator
) -> tuple[tuple[SceneObject, ...], Image.Image]:
    """All objects, and the image without those that are left out."""
    sizes, radii, centers = _draw_layout(count, rng)
    colours = rng.permutation(len(COLOURS))[:count]
    shapes = rng.integers(len(SHAPES), size=count)
    rotations = rng.uniform(-MAX_ROTATION, MAX_ROTATION, size=count)

    canvas = draw_background(rng)
    objects = []
    for i in range(count):
        shape, colour = SHAPES[shapes[i]], COLOURS[colours[i]]
        center = (float(centers[i, 0]), float(centers[i, 1]))
        outline = Outline(shape, center, float(radii[i]), float(rotations[i]))
        # Drawn in any case: what follows has to get the same random numbers.
        drawn_on = canvas.copy() if i in left_out else canvas
        mask = draw_object(drawn_on, outline, colour, rng)
        mask.setflags(write=False)
        objects.append(
            SceneObject(
                shape=shape,
                colour=colour,
                size=sizes[i],
                center=center,
                radius=outline.radius,
                rotation=outline.rotation,
                mask=mask,
            )
        )
    return tuple(objects), Image.fromarray(finish(canvas, rng))
