"""The connected regions of a word's map on the original image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum_dexar.maps.composition import map_view
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.selection import chosen_word, selected_tokens, WordChoice
from torch import Tensor

THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a word's map.

    Attributes:
        text (str): the word
        tokens (tuple of int): positions of its tokens in the answer
        image (int): index of the image in the prompt
        sign (int): 1 if the region raises the word, -1 if it lowers it, which only maps
            of signed results do
        box (tuple of int): its bounding box as ``y0, x0, y1, x1`` in pixels of the
            original image, whose ends are not included
        area (int): its number of pixels
        share (float): its share of the word's absolute attribution on all images. The
            shares of all regions sum to 1 minus the share of what is below the
            threshold
        crop (ndarray): which pixels of the box belong to it, ``(y1 - y0, x1 - x0)``,
            bool
        image_size (tuple of int): height and width of the original image
    """

    text: str
    tokens: tuple[int, ...]
    image: int
    sign: int
    box: tuple[int, int, int, int]
    area: int
    share: float
    crop: npt.NDArray[np.bool_] = field(repr=False)
    image_size: tuple[int, int]

    @property
    def mask(self) -> Tensor:
        """Which pixels of the original image belong to it, ``(H, W)``, bool."""
        mask = torch.zeros(self.image_size, dtype=torch.bool)
        y0, x0, y1, x1 = self.box
        mask[y0:y1, x0:x1] = torch.from_numpy(self.crop)
        return mask


def regions_of(
    result: AnswerMaps, word: WordChoice, threshold: float, image: int
) -> list[Region]:
    """See :meth:`VLMAttributionResult.regions`."""
    return list(_regions(result, word, checked_threshold(threshold), image))


def checked_threshold(threshold: Any) -> float:
    """A threshold in [0, 1); raises TypeError or ValueError if it is none."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number, got {threshold!r}.")
    if not 0 <= threshold < 1:
        raise ValueError(
            "threshold is compared with maps, whose largest value is 1, and must be "
            f"at least 0 and less than 1, got {threshold}."
        )
    return float(threshold)


def _regions(
    result: AnswerMaps, word: WordChoice, threshold: float, image: int
) -> Iterator[Region]:
    selection = chosen_word(word, result.words())
    tokens = selected_tokens(selection, len(result.output_tokens))
    (selected,) = result.words_from([tokens])
    text = result.answer if selection is None else selected.text
    values = result.pixel_map(selection, image).numpy()
    total = _total(result, selection, image, values)
    if not total > 0:
        return
    pixel = 1 / _pixels_per_cell(result, image) / total
    found: list[Region] = []
    for sign in (1, -1):
        for box, crop in _components(sign * values > threshold):
            y0, x0, y1, x1 = box
            inside = values[y0:y1, x0:x1][crop]
            found.append(
                Region(
                    text=text,
                    tokens=tuple(tokens),
                    image=image,
                    sign=sign,
                    box=box,
                    area=int(crop.sum()),
                    share=sign * float(inside.sum(dtype=np.float64)) * pixel,
                    crop=crop,
                    image_size=(values.shape[0], values.shape[1]),
                )
            )
    yield from sorted(found, key=lambda region: -region.share)


def _components(
    mask: npt.NDArray[np.bool_],
) -> Iterator[tuple[tuple[int, int, int, int], npt.NDArray[np.bool_]]]:
    """The box of each connected part of a mask, and its pixels in the box.

    Pixels that touch at a corner are connected.
    """
    if not mask.any():
        return
    # Imported here: it takes a second, and most results are never asked for regions.
    from skimage.measure import label, regionprops

    for part in regionprops(label(mask, connectivity=2)):
        y0, x0, y1, x1 = map(int, part.bbox)
        yield (y0, x0, y1, x1), np.array(part.image, dtype=bool)


def _total(
    result: AnswerMaps, selection: Any, image: int, values: npt.NDArray[np.float32]
) -> float:
    """The absolute attribution of a part of the answer on all images.

    In cells of the images' maps, because images of different sizes have equally large
    maps.
    """
    total = 0.0
    for index in range(result.layout.num_images):
        painted = values
        if index != image:
            painted = result.pixel_map(selection, index).numpy()
        size = float(np.abs(painted).sum(dtype=np.float64))
        total += size / _pixels_per_cell(result, index)
    return total


def _pixels_per_cell(result: AnswerMaps, image: int) -> float:
    return map_view(result.layout, image).cell_area
