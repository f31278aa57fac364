"""How objects stand to each other, and how captions say it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from captum_dexar.worlds.words import CaptionWord, words_of

# Two objects that are closer in x have no clear order.
ORDER_MARGIN = 8.0


class Placed(Protocol):
    """An object with a place."""

    @property
    def center(self) -> tuple[float, float]: ...


def from_left(objects: Sequence[Placed]) -> list[int]:
    """The objects' indices from left to right."""
    return sorted(range(len(objects)), key=lambda index: objects[index].center[0])


def arranged(
    objects: Sequence[Placed], noun_phrase: Callable[[int], list[CaptionWord]]
) -> list[CaptionWord]:
    """What a caption says of one to three objects and their arrangement.

    Two objects are joined by their relation along the axis on which they are further
    apart, the upper or left one first. Others are listed from left to right.

    Args:
        objects (sequence): the objects
        noun_phrase (Callable): the words for the object of an index

    Returns:
        list of CaptionWord
    """
    if len(objects) == 2:
        (x0, y0), (x1, y1) = objects[0].center, objects[1].center
        is_vertical = abs(y1 - y0) > abs(x1 - x0)
        is_swapped = y1 < y0 if is_vertical else x1 < x0
        first, second = (1, 0) if is_swapped else (0, 1)
        relation = "above" if is_vertical else "left of"
        return [
            *noun_phrase(first),
            *words_of(relation, "relation", (0, 1)),
            *noun_phrase(second),
        ]
    words = []
    for joint, index in zip(("", ",", "and"), from_left(objects)):
        words += words_of(joint) + noun_phrase(index)
    return words


def is_clearly_arranged(
    centers: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.bool_]:
    """Which layouts have objects whose relation, or order from the left, is clear.

    Args:
        centers (ndarray): ``(layouts, count, 2)``, x and y in pixels

    Returns:
        ndarray ``(layouts,)``, bool
    """
    count = centers.shape[1]
    first, second = np.triu_indices(count, 1)
    gap = np.abs(centers[:, first] - centers[:, second])
    # Two objects are told apart by their relation, three by their order.
    clear = gap[..., 0] if count > 2 else np.abs(gap[..., 0] - gap[..., 1])
    every: npt.NDArray[np.bool_] = np.logical_and.reduce(clear >= ORDER_MARGIN, axis=1)
    return every
