"""Results as the interactive page: what it shows, computed from the result's maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum_dexar.maps.composition import compose, map_grid, map_view
from captum_dexar.maps.layout import ImageLayout, Size
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.words import Word
from captum_dexar.visualization import Backdrop
from captum_dexar.visualization.page import (
    GridPlaces,
    Page,
    PageLayers,
    PagePicture,
    PageResult,
    PageWord,
    Places,
    RegionPlaces,
)
from PIL import Image
from torch import Tensor

# Canvases are larger than small images and smaller than large ones.
_LEAST_SIDE, _MOST_SIDE = 480, 768
_STILL_SIDE = 480
# Values of layer maps, a byte each; larger maps are averaged over neighbouring cells.
_MOST_LAYER_VALUES = 300_000
_COARSEST = 4

FloatArray = npt.NDArray[np.float64]


def page_of(
    results: Mapping[str, AnswerMaps],
    notes: Sequence[str] = (),
    prompt: str | None = None,
) -> Page:
    """The page of one answer that was explained once or several times.

    Args:
        results (Mapping): explanations of the same answer, by name
        notes (sequence of str, optional): a remark on each. Default: (), none
        prompt (str, optional): the question; none is shown if it is empty.
            Default: None, the first result's own

    Raises:
        ValueError: there is no result, the results are not of the same answer or of
            images of the same size, or an attribution is not finite.
    """
    if not results:
        raise ValueError("There is no result to show: results is empty.")
    first = next(iter(results.values()))
    words = first.words()
    for name, result in results.items():
        _check(name, result, first)
    sizes = _canvas_sizes(first)
    notes = notes or [""] * len(results)
    return Page(
        title=first.answer or "Where each word comes from",
        prompt=first.question if prompt is None else prompt,
        answer=first.answer,
        words=_words(words, first.answer),
        pictures=_pictures(first, sizes),
        results=[
            _explanation(name, note, result, words, sizes)
            for (name, result), note in zip(results.items(), notes)
        ],
        still=_still(first),
    )


def _check(name: str, result: AnswerMaps, first: AnswerMaps) -> None:
    if not torch.equal(result.target_ids.cpu(), first.target_ids.cpu()):
        raise ValueError(
            f"{name!r} explains another answer ({result.answer!r}) than the first "
            f"result ({first.answer!r}). A page shows several explanations of one."
        )
    shapes = [
        (one.layout.num_images, one.layout.image_sizes) for one in (result, first)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name!r} explains images of the sizes {shapes[0][1]}, the first result "
            f"those of {shapes[1][1]}. A page shows several explanations of the same."
        )
    tensors = (result.token_attr, result.seq_attr, result.layer_attr)
    for values in (*tensors, result.token_weights):
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(
                f"{name!r} has attributions that are not finite, which can't be drawn."
            )


def _canvas_sizes(result: AnswerMaps) -> list[Size]:
    """Height and width of the canvas of each image, with its aspect."""
    sizes = result.layout.image_sizes if _is_placed(result.layout) else None
    if sizes is None:
        grids = [map_grid(result.layout, i) for i in range(result.layout.num_images)]
        return [_fitted(grid, _LEAST_SIDE, _LEAST_SIDE) for grid in grids]
    return [_fitted(size, _LEAST_SIDE, _MOST_SIDE) for size in sizes]


def _fitted(size: Size, least: int, most: int) -> Size:
    scale = min(most, max(least, *size)) / max(size)
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _is_placed(layout: ImageLayout) -> bool:
    return layout.image_sizes is not None and layout.is_located


def _words(words: Sequence[Word], answer: str) -> list[PageWord]:
    """The words with what stands between them in the answer."""
    content: list[PageWord] = []
    end = 0
    for word in words:
        place = answer.find(word.text, end)
        between = answer[end:place] if place >= 0 else ""
        if place < 0 or between.strip():
            # The answer has other characters than its tokens: blanks are as good.
            between = " "
        else:
            end = place + len(word.text)
        log_prob = word.log_prob
        content.append(
            PageWord(
                text=word.text,
                before=between if content else "",
                probability=None if log_prob is None else exp(min(0.0, log_prob)),
            )
        )
    return content


def _pictures(result: AnswerMaps, sizes: Sequence[Size]) -> list[PagePicture]:
    is_placed = _is_placed(result.layout)
    return [
        PagePicture(size, result.images[index] if is_placed and result.images else None)
        for index, size in enumerate(sizes)
    ]


def _explanation(
    name: str,
    note: str,
    result: AnswerMaps,
    words: Sequence[Word],
    sizes: Sequence[Size],
) -> PageResult:
    assert result.token_attr is not None
    columns = _columns(result.layout, sizes)
    seen = [column.places for column in columns]
    rows = [result.token_attr[list(word.tokens)].sum(0) for word in words]
    maps = _cells(torch.stack([*rows, result.seq_attr]), columns)
    spread = maps[:-1].max(axis=1, initial=-np.inf) > maps[:-1].min(
        axis=1, initial=np.inf
    )
    own = result.words_from([word.tokens for word in words])
    weights = [word.weight for word in own if word.weight is not None]
    has_weights = result.token_weights is not None
    return PageResult(
        name=name or "unknown method",
        note=" ".join(filter(None, (note, result.layout.approximation))),
        signed=result.is_signed,
        maps=maps,
        places=seen,
        weights=weights if has_weights else None,
        has_evidence=[
            bool(varies) and (not has_weights or weights[index] != 0)
            for index, varies in enumerate(spread)
        ],
        layers=_layers(result, words, columns),
        rather_than=_rather_than(result, words),
    )


def _rather_than(result: AnswerMaps, words: Sequence[Word]) -> list[str] | None:
    """What each word was contrasted with; of several tokens, each by itself."""
    if result.rival_tokens is None:
        return None
    texts = []
    for word in words:
        rivals = [", ".join(result.rival_tokens[token]) for token in word.tokens]
        if len(rivals) > 1:
            tokens = [result.output_tokens[token] for token in word.tokens]
            rivals = [f"{token}: {them}" for token, them in zip(tokens, rivals)]
        texts.append("; ".join(rivals))
    return texts


class _Columns:
    """Which cells of a page the attributions of an image's tokens become.

    Args:
        layout (ImageLayout): the tokens' places
        image (int): index of the image
        size (tuple of int): height and width of its canvas
    """

    def __init__(self, layout: ImageLayout, image: int, size: Size) -> None:
        self._layout, self._image, self._size = layout, image, size
        self._sets: Tensor | None = None
        self.places: Places
        if isinstance(layout, SegmentLayout):
            self.places = self._regions(layout)
        else:
            self.places = self._grid()

    def cells(self, values: Tensor) -> FloatArray:
        """The cells of attributions ``(..., N)``, ``(..., cells)``."""
        if self._sets is None:
            composed = compose(values.double().cpu(), self._layout, self._image)
            return composed.flatten(-2).numpy()
        # The last value is that of no segment.
        padded = torch.nn.functional.pad(values.double().cpu(), (0, 1))
        return padded[..., self._sets].sum(-1).numpy()

    def _grid(self) -> GridPlaces:
        layout, image = self._layout, self._image
        grid = map_grid(layout, image)
        if not _is_placed(layout):
            return GridPlaces(grid, None)
        assert layout.image_sizes is not None
        original = layout.image_sizes[image]
        scale = self._size[0] / original[0], self._size[1] / original[1]
        views = [view.scaled(*scale) for view in layout.views if view.image == image]
        whole = map_view(layout, image).scaled(*scale).rectangle
        seen = []
        for view in views:
            edges = [
                (view.cell_of_pixel(length, axis) >= 0).nonzero().flatten().tolist()
                for axis, length in enumerate(self._size)
            ]
            if all(edges):
                rows, columns = edges
                seen.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
        outlined = [view.rectangle for view in views if view.rectangle is not None]
        return GridPlaces(grid, whole, seen, outlined if len(views) > 1 else ())

    def _regions(self, layout: SegmentLayout) -> RegionPlaces:
        """Each set of segments that lie over each other somewhere is one cell."""
        resized = layout.resized((self._size,))
        stacked = resized.labels.flatten(1).T
        sets, cell_of_pixel = torch.unique(stacked, dim=0, return_inverse=True)
        self._sets = sets.long()
        outside = (sets < 0).all(1).nonzero().flatten().tolist()
        return RegionPlaces(
            cell_of_pixel.view(self._size).numpy(),
            len(sets),
            outside[0] if outside else None,
        )


def _columns(layout: ImageLayout, sizes: Sequence[Size]) -> list[_Columns]:
    return [_Columns(layout, image, size) for image, size in enumerate(sizes)]


def _cells(values: Tensor, columns: Sequence[_Columns]) -> FloatArray:
    """The cells of all images, ``(..., cells)``."""
    return np.concatenate([column.cells(values) for column in columns], axis=-1)


def _layers(
    result: AnswerMaps, words: Sequence[Word], columns: Sequence[_Columns]
) -> PageLayers | None:
    if result.layer_attr is None or result.layer_indices is None or not words:
        return None
    each = [result.layer_attr[list(word.tokens)].sum(0) for word in words]
    places = [column.places for column in columns]
    values = torch.stack(each)
    num_cells = sum(where.num_cells for where in places)
    maps = None
    for factor in range(1, _COARSEST + 1):
        if len(words) * values.shape[1] * num_cells <= _MOST_LAYER_VALUES * factor**2:
            coarse = [_coarser(c.cells(values), c.places, factor) for c in columns]
            maps = np.concatenate([cells for cells, _ in coarse], axis=-1)
            places = [where for _, where in coarse]
            break
    return PageLayers(
        indices=result.layer_indices,
        strengths=values.double().abs().sum(-1).numpy(),
        maps=maps,
        places=places,
    )


def _coarser(
    cells: FloatArray, places: Places, factor: int
) -> tuple[FloatArray, Places]:
    """Means over squares of neighbouring cells, and where these lie."""
    if factor == 1 or isinstance(places, RegionPlaces):
        return cells, places
    rows, columns = places.grid
    grid = -(-rows // factor), -(-columns // factor)
    wide = cells.reshape(*cells.shape[:-1], rows, columns)
    padding = [(0, grid[0] * factor - rows), (0, grid[1] * factor - columns)]
    # Cells beyond the edge repeat it.
    padded = np.pad(wide, [(0, 0)] * (wide.ndim - 2) + padding, mode="edge")
    squares = padded.reshape(*wide.shape[:-2], grid[0], factor, grid[1], factor)
    rectangle = places.rectangle
    if rectangle is not None:
        y0, x0, y1, x1 = rectangle
        y1 = y0 + (y1 - y0) * grid[0] * factor / rows
        x1 = x0 + (x1 - x0) * grid[1] * factor / columns
        rectangle = (y0, x0, y1, x1)
    coarse = GridPlaces(grid, rectangle, places.seen, places.views)
    return squares.mean(axis=(-3, -1)).reshape(*cells.shape[:-1], -1), coarse


def _still(result: AnswerMaps) -> Image.Image:
    """The whole answer's map on the first image, without a script."""
    maps = result.sequence_map
    heat = maps if isinstance(maps, Tensor) else maps[0]
    if _is_placed(result.layout):
        sizes = list(result.known_sizes())
        size = _fitted(sizes[0], _STILL_SIDE, _STILL_SIDE)
        resized = result.layout.resized((size, *sizes[1:]))
        unseen = (resized.token_of_pixel() < 0).numpy()
        scale = size[0] / sizes[0][0], size[1] / sizes[0][1]
        view = map_view(result.layout).scaled(*scale)
        painted = view.render(heat.flatten(), size).numpy()
        painted = np.where(unseen, np.float32(0), painted)
    else:
        size = _fitted((heat.shape[0], heat.shape[1]), _STILL_SIDE, _STILL_SIDE)
        painted = _blocks(heat.numpy(), size)
        unseen = np.zeros(size, dtype=bool)
    if result.images and _is_placed(result.layout):
        picture = result.images[0].convert("RGB").resize((size[1], size[0]))
    else:
        picture = Image.new("RGB", (size[1], size[0]), "#d9d9d9")
    drawn = Backdrop(np.asarray(picture), unseen, result.is_signed).overlay(painted)
    return Image.fromarray(np.rint(255 * drawn).astype(np.uint8))


def _blocks(heat: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    rows, columns = (
        np.arange(length) * cells // length for length, cells in zip(size, heat.shape)
    )
    blocks: npt.NDArray[Any] = heat[rows[:, None], columns]
    return blocks
