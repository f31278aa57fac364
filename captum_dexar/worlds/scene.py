"""A drawn scene: image, objects with exact masks, caption and questions."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from captum_dexar.worlds.words import CaptionWord, Question
from PIL import Image

FIRST_TRAINING_SEED = 1_000_000
MAX_OBJECTS = 3

BoolArray = npt.NDArray[np.bool_]
_Scene = TypeVar("_Scene", bound="Scene")


class DrawnObject(Protocol):
    """One object of a scene, with the attributes of its world."""

    @property
    def center(self) -> tuple[float, float]: ...

    @property
    def mask(self) -> BoolArray: ...


@dataclass(frozen=True, eq=False)
class Scene(ABC):
    """A drawn scene and its ground truth; a subclass draws those of one world.

    Attributes:
        seed (int): the seed it was drawn from
        image (PIL.Image.Image): RGB
        objects (tuple): one to three objects, with their exact masks
        caption_words (tuple of CaptionWord): the caption's words with their kinds and
            objects
        questions (tuple of Question): questions with their answers
    """

    seed: int
    image: Image.Image = field(repr=False)
    objects: tuple[Any, ...]
    caption_words: tuple[CaptionWord, ...] = field(repr=False)
    questions: tuple[Question, ...] = field(repr=False)

    @classmethod
    @abstractmethod
    def draw(
        cls, count: int, left_out: Collection[int], rng: np.random.Generator
    ) -> tuple[tuple[Any, ...], Image.Image]:
        """All objects, and the image without those that are left out.

        What is left out must not change any random number that follows.
        """

    @staticmethod
    @abstractmethod
    def describe(objects: Sequence[Any]) -> tuple[CaptionWord, ...]:
        """The words of the true caption."""

    @staticmethod
    @abstractmethod
    def ask(objects: Sequence[Any], rng: np.random.Generator) -> tuple[Question, ...]:
        """Questions with their true answers."""

    @classmethod
    def drawn(cls: type[_Scene], seed: int, num_objects: int | None) -> _Scene:
        """The scene of a seed.

        Args:
            seed (int): any non-negative integer
            num_objects (int or None): number of objects, 1 to 3; None: a random number

        Raises:
            ValueError: ``seed`` is negative, or ``num_objects`` is not 1, 2 or 3.
        """
        if seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {seed}.")
        if num_objects is not None and not 1 <= num_objects <= MAX_OBJECTS:
            raise ValueError(f"num_objects must be 1, 2, 3 or None, got {num_objects}.")
        rng, count = _started(seed)
        objects, image = cls.draw(
            count if num_objects is None else num_objects, (), rng
        )
        return cls(
            seed=seed,
            image=image,
            objects=objects,
            caption_words=cls.describe(objects),
            questions=cls.ask(objects, rng),
        )

    @property
    def caption(self) -> str:
        """The caption, its words and punctuation separated by single spaces."""
        return " ".join(word.text for word in self.caption_words)

    @property
    def mask(self) -> BoolArray:
        """``(H, W)`` bool: the union of all objects' masks."""
        union: BoolArray = np.logical_or.reduce([item.mask for item in self.objects])
        return union

    def image_without(self, *left_out: int) -> Image.Image:
        """The same scene, drawn without some of its objects.

        Background, other objects and noise are the same, so that what a word's
        log-probability loses is the true effect of the objects on it. Pixels change
        only where they are, with their soft edges.

        Args:
            left_out (int): indices of ``objects``

        Returns:
            *PIL.Image.Image*, RGB, of the size of ``image``

        Raises:
            IndexError: the scene has no such object.

        Examples::

            >>> from captum_dexar.shapes import make_scene
            >>> scene = make_scene(7, num_objects=2)
            >>> scene.image_without(0).size
            (96, 96)
        """
        count = len(self.objects)
        unknown = [index for index in left_out if not 0 <= index < count]
        if unknown:
            raise IndexError(f"The scene has objects 0 to {count - 1}, got {unknown}.")
        rng, _ = _started(self.seed)
        return self.draw(count, left_out, rng)[1]


def _started(seed: int) -> tuple[np.random.Generator, int]:
    """A scene's random numbers, and the first of them: a number of objects."""
    rng = np.random.default_rng(seed)
    return rng, int(rng.integers(1, MAX_OBJECTS + 1))
