"""The parts of the images that a map ranks, and which of them are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from captum_dexar.maps.composition import map_grid, map_view
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.maps.segments import SegmentLayout
from torch import Tensor

Unit = Literal["token", "pixel"]
Order = Literal["positive", "negative"]
Mode = Literal["removal", "insertion"]

Bools: TypeAlias = npt.NDArray[np.bool_]
Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageParts:
    """A division of the pixels that the model sees into parts.

    A part is a cell of the map, i.e. the box of an image token (where several views
    cover the image: a cell of the grid on which they are composed); a segment, if the
    map is one of segments; or a single pixel. The parts of several images are numbered
    one image after the other.

    Attributes:
        layout (ImageLayout): places of the image tokens
        unit (str): ``"token"`` or ``"pixel"``
        labels (tuple of numpy.ndarray): the part of each pixel of an image, counted
            within the image, ``(H, W)``, int64; -1 where the model sees nothing, which
            is never perturbed
        counts (tuple of int): number of parts of each image, including those that hold
            no pixel's centre
    """

    layout: ImageLayout
    unit: Unit
    labels: tuple[npt.NDArray[np.int64], ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, layout: ImageLayout, unit: Unit = "token") -> ImageParts:
        """The parts of the images of a prompt.

        Raises:
            ValueError: the places on the original images are not known, or there is no
                such unit.
        """
        if unit not in ("token", "pixel"):
            raise ValueError(f"unit must be 'token' or 'pixel', got {unit!r}.")
        if layout.image_sizes is None or not layout.is_located:
            raise ValueError(
                "The original images are not known, because the input was made without "
                "them. Use ImagePromptInput(image, prompt, processor) as the input."
            )
        labels, counts = [], []
        for image, size in enumerate(layout.image_sizes):
            token = layout.token_of_pixel(image).long()
            part, count = _parts_of_pixels(layout, unit, image, token)
            labels.append(part.where(token >= 0, -1).numpy())
            counts.append(count)
        return cls(layout, unit, tuple(labels), tuple(counts))

    def values(self, maps: Sequence[Tensor]) -> Values:
        """A value per part, from one map per image.

        Args:
            maps (sequence of Tensor): of each image, on its pixels ``(H, W)``, or on
                the grid of its map ``(h, w)``. Pixels are averaged over a token's box;
                a grid is interpolated to pixels.

        Raises:
            ValueError: the number of maps, or the shape of one, does not match; or a
                map holds NaN or infinite values.
        """
        if len(maps) != len(self.labels):
            raise ValueError(
                f"Expected a map for each of {len(self.labels)} images, got "
                f"{len(maps)}."
            )
        if not all(bool(torch.isfinite(one).all()) for one in maps):
            raise ValueError("The map holds NaN or infinite values.")
        return np.concatenate(
            [
                self._values_of_image(one.detach().cpu().double(), image)
                for image, one in enumerate(maps)
            ]
        )

    def _values_of_image(self, one: Tensor, image: int) -> Values:
        assert self.layout.image_sizes is not None
        size, grid = self.layout.image_sizes[image], map_grid(self.layout, image)
        values: Values
        if one.shape == grid and not isinstance(self.layout, SegmentLayout):
            if self.unit == "token":
                values = one.flatten().numpy()
                return values
            if grid != size:
                view = map_view(self.layout, image)
                one = view.render(one.flatten(), size).double()
        if one.shape != size:
            raise ValueError(
                f"Expected a map on the pixels, {size}, or on the image tokens, "
                f"{grid}, got {tuple(one.shape)}."
            )
        values = one.flatten().numpy()
        if self.unit == "pixel":
            return values
        part, bins = self.labels[image].ravel() + 1, self.counts[image] + 1
        number = np.bincount(part, minlength=bins)
        values = np.bincount(part, values, minlength=bins) / np.maximum(number, 1)
        return values[1:]

    def ranked(self, values: Values, seed: int = 0) -> Ranking:
        """The parts that hold a pixel, those with the largest value first.

        Args:
            values (numpy.ndarray): a value per part
            seed (int, optional): parts of equal value are put in a random order, which
                depends on nothing but their number and this seed. To take them row by
                row would favour a side of the image. Default: 0
        """
        holds_pixel = []
        for labels, count in zip(self.labels, self.counts):
            holds_pixel.append(np.bincount(labels.ravel() + 1, minlength=count + 1)[1:])
        present = np.flatnonzero(np.concatenate(holds_pixel))
        # RandomState gives the same numbers in all versions of NumPy.
        tie = np.random.RandomState(seed % 2**32).permutation(len(values))
        order = present[np.lexsort((tie[present], -values[present]))]
        ordered = values[order]
        is_degenerate = not len(order) or bool(ordered[0] == ordered[-1])
        return Ranking(len(values), order, is_degenerate)

    def pixels(self, parts: Bools) -> list[Bools]:
        """The pixels of some parts, ``(H, W)`` for each image."""
        of_images = np.split(parts, np.cumsum(self.counts)[:-1])
        # Label -1, no part, is the entry at the end.
        return [
            np.append(chosen, False)[labels]
            for chosen, labels in zip(of_images, self.labels)
        ]


def _parts_of_pixels(
    layout: ImageLayout, unit: Unit, image: int, token: Tensor
) -> tuple[Tensor, int]:
    """The part of each pixel, and the number of parts."""
    if unit == "pixel":
        return torch.arange(token.numel()).view(token.shape), token.numel()
    if isinstance(layout, SegmentLayout):
        return token, layout.num_tokens
    view = map_view(layout, image)
    row, column = (view.cell_of_pixel(token.shape[axis], axis) for axis in (0, 1))
    return row[:, None] * view.grid[1] + column, view.num_tokens


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of the images' parts.

    Attributes:
        num_parts (int): number of all parts
        order (numpy.ndarray): the parts that hold a pixel, the most important first
        is_degenerate (bool): whether all have the same value, so that the order is
            random
    """

    num_parts: int
    order: npt.NDArray[Any]
    is_degenerate: bool

    def removed(self, fraction: float, order: Order, mode: Mode) -> Bools:
        """Which parts are replaced, ``(num_parts,)``.

        Args:
            fraction (float): the share of the parts that is removed, or inserted; the
                nearest number of parts is taken
            order (str): ``"positive"``, the most important first; ``"negative"``, the
                least important first
            mode (str): ``"removal"``, or ``"insertion"`` into images without any part
        """
        number = floor(fraction * len(self.order) + 0.5)
        ranked = self.order if order == "positive" else self.order[::-1]
        is_removed: Bools = np.zeros(self.num_parts, dtype=bool)
        is_removed[ranked[:number] if mode == "removal" else ranked[number:]] = True
        return is_removed
