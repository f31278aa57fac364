"""What is special of one drawn world, for all that works on any of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from captum_dexar.worlds.scene import (
    DrawnObject,
    FIRST_TRAINING_SEED,
    MAX_OBJECTS,
    Scene,
)


class SceneMaker(Protocol):
    """Draws the scene of a seed, with a number of objects or a random one."""

    def __call__(self, seed: int, *, num_objects: int | None = None) -> Scene: ...


@dataclass(frozen=True)
class World:
    """What training and measuring have to know of a drawn world.

    Args:
        name (str): its name
        make_scene (callable): draws a :class:`Scene` of 1 to ``max_objects``
            objects from a seed
        vocabulary (Mapping): the ids of its words, see
            :func:`captum_dexar.worlds.processing.vocabulary_of`
        image_size (int): height and width of its images in pixels
        attributes (Mapping): the attributes of an object by name, each with all the
            words for it, such as ``{"colour": ("red", "green")}``
        caption_prompt (str): what asks for the caption
        question_kinds (Mapping): how often each kind of question is drawn, relative to
            the others
        hard_kinds (Mapping): the same where training dwells on what is learnt last
        max_objects (int, optional): most objects of a scene. Default: 3
        first_training_seed (int, optional): scenes of smaller seeds are held out.
            Default: 1,000,000
    """

    name: str
    make_scene: SceneMaker
    vocabulary: Mapping[str, int]
    image_size: int
    attributes: Mapping[str, tuple[str, ...]]
    caption_prompt: str
    question_kinds: Mapping[str, float]
    hard_kinds: Mapping[str, float]
    max_objects: int = MAX_OBJECTS
    first_training_seed: int = FIRST_TRAINING_SEED

    def words_for(self, item: DrawnObject) -> tuple[str, ...]:
        """The words for one object's attributes, in the order of ``attributes``."""
        return tuple(getattr(item, name) for name in self.attributes)

    def phrases(self) -> Iterator[tuple[str, ...]]:
        """All that :meth:`words_for` can answer."""
        return product(*self.attributes.values())
