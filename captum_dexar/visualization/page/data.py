"""What a page shows, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.floating[Any]]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class PageWord:
    """A word of the answer.

    Attributes:
        text (str): the word
        before (str): what separates it from the word before: blanks, line ends or
            nothing
        probability (float or None): the model's, if known
    """

    text: str
    before: str
    probability: float | None


@dataclass(frozen=True, eq=False)
class PagePicture:
    """One of the prompt's images, or the empty space that stands for it.

    Attributes:
        size (tuple of int): height and width of the canvas on which maps are drawn
        image (PIL.Image.Image or None): the image, with the canvas's aspect; None if
            not known
    """

    size: tuple[int, int]
    image: Image.Image | None


@dataclass(frozen=True, eq=False)
class GridPlaces:
    """Cells on a grid, interpolated bilinearly over a rectangle of the canvas.

    Attributes:
        grid (tuple of int): rows and columns
        rectangle (tuple of float or None): ``y0, x0, y1, x1`` in pixels of the canvas;
            None if the cells' place on the image is not known. Then every cell is drawn
            as it is, on the whole canvas
        seen (sequence of tuple of int): rectangles of pixels that the model sees, as
            ``y0, x0, y1, x1`` with exclusive ends; all others are hatched
        views (sequence of tuple of float): rectangles of views to outline
    """

    grid: tuple[int, int]
    rectangle: tuple[float, float, float, float] | None
    seen: Sequence[Box] = ()
    views: Sequence[tuple[float, float, float, float]] = ()

    @property
    def num_cells(self) -> int:
        """Cells of the grid."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, eq=False)
class RegionPlaces:
    """Cells of any shape.

    Attributes:
        cell_of_pixel (ndarray): the cell of each pixel of the canvas, ``(height,
            width)``, integers
        num_cells (int): number of cells
        unseen_cell (int or None): the cell of pixels that are hatched, if any
    """

    cell_of_pixel: npt.NDArray[np.integer[Any]]
    num_cells: int
    unseen_cell: int | None


Places = GridPlaces | RegionPlaces


@dataclass(frozen=True, eq=False)
class PageLayers:
    """How much of each word was read in each layer.

    Attributes:
        indices (sequence of int): the layers' indices in the model
        strengths (ndarray): absolute attribution of each word in each layer, ``(words,
            layers)``
        maps (ndarray or None): each layer's part of each word's map, un-normalised,
            ``(words, layers, cells)``; None if they are too large for the page
        places (sequence of Places): where these cells lie on each picture
    """

    indices: Sequence[int]
    strengths: Array
    maps: Array | None
    places: Sequence[Places]


@dataclass(frozen=True, eq=False)
class PageResult:
    """One explanation of the answer.

    Attributes:
        name (str): the method
        note (str): a remark, such as its run time
        signed (bool): whether some attributions are negative
        maps (ndarray): un-normalised maps of all words, and the whole answer's as the
            last row, ``(words + 1, cells)``; the cells of all pictures together
        places (sequence of Places): where the cells lie on each picture
        weights (sequence of float or None): each word's weight, if the method has any
        has_evidence (sequence of bool): False for words that nothing visual supports
        layers (PageLayers or None): if they were kept
        rather_than (sequence of str or None): what each word was contrasted with
    """

    name: str
    note: str
    signed: bool
    maps: Array
    places: Sequence[Places]
    weights: Sequence[float] | None
    has_evidence: Sequence[bool]
    layers: PageLayers | None
    rather_than: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Page:
    """A page: one answer, explained once or several times.

    Attributes:
        title (str): of the document
        prompt (str or None): the question, if known
        answer (str): the whole answer
        words (sequence of PageWord): its words
        pictures (sequence of PagePicture): the prompt's images
        results (sequence of PageResult): the explanations, at least one
        still (PIL.Image.Image): a picture for readers whose viewer runs no script
    """

    title: str
    prompt: str | None
    answer: str
    words: Sequence[PageWord]
    pictures: Sequence[PagePicture]
    results: Sequence[PageResult]
    still: Image.Image
