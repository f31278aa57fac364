"""Segments of an image: features of any shape, such as those of a user's mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from captum_dexar.maps.layout import ImageLayout, Size, View
from torch import Tensor

# Maps of larger images have fewer cells than the image has pixels.
LONGEST_SIDE = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentLayout(ImageLayout):
    """The places of an image's segments, for attributions with a column per segment.

    It takes the place of the image tokens' layout. Its maps show every pixel with the
    value of its segment, as Captum does, and where segments overlap with their sum. Its
    single view is the grid of these maps.

    Attributes:
        labels (Tensor): the segment of each pixel, or -1, ``(layers, height, width)``,
            int32; segments that overlap lie in different layers
        names (tuple of str): the segments' names
    """

    labels: Tensor
    names: tuple[str, ...]

    @classmethod
    def of_masks(
        cls,
        masks: Iterable[Tensor],
        names: Sequence[str],
        size: Size,
        seen: Tensor | None = None,
    ) -> SegmentLayout:
        """The layout of segments given as masks, in the same order.

        Args:
            masks (iterable of Tensor): each segment's pixels, ``(height, width)``
            names (sequence of str): the segments' names
            size (tuple of int): height and width of the image
            seen (Tensor, optional): pixels that the model sees, ``(height, width)``,
                bool; others belong to no segment. Default: None, all
        """
        layers = [torch.full(size, -1, dtype=torch.int32)]
        for index, mask in enumerate(masks):
            inside = mask.cpu().bool()
            if seen is not None:
                inside = inside & seen
            free = (layer for layer in layers if not (layer[inside] >= 0).any())
            layer = next(free, None)
            if layer is None:
                layer = torch.full(size, -1, dtype=torch.int32)
                layers.append(layer)
            layer[inside] = index
        return cls.of_labels(torch.stack(layers), tuple(names))

    @classmethod
    def of_labels(cls, labels: Tensor, names: tuple[str, ...]) -> SegmentLayout:
        """The layout of labels ``(layers, height, width)``, int32, as in ``labels``."""
        height, width = labels.shape[1:]
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        grid = max(1, round(height * scale)), max(1, round(width * scale))
        whole = View("segments", grid, (0.0, 0.0, float(height), float(width)))
        return cls(len(names), (whole,), ((height, width),), labels=labels, names=names)

    @property
    def placed(self) -> Tensor:
        """Indices of the segments; each has a place."""
        return torch.arange(self.num_tokens)

    def columns(self) -> list[tuple[View, slice]]:
        """None: no view has a cell per segment."""
        return []

    def of_image(self, image: int) -> tuple[ImageLayout, Tensor]:
        """This layout and all of its segments; there is one image."""
        if image != 0:
            raise IndexError(f"There is one segmented image, got the index {image}.")
        return self, self.placed

    def boxes(self) -> Tensor:
        """The bounding box of every segment, ``(N, 4)``, empty if it has no pixel."""
        edges = []
        for axis, length in enumerate(self.labels.shape[1:]):
            along = torch.arange(length).unsqueeze(1 - axis)
            places = along.expand(self.labels.shape).flatten()
            segments = self.labels.long().flatten() + 1
            first = torch.full((self.num_tokens + 1,), length)
            last = torch.full((self.num_tokens + 1,), -1)
            first.scatter_reduce_(0, segments, places, "amin")
            last.scatter_reduce_(0, segments, places, "amax")
            is_empty = last < 0
            edges.append((first.masked_fill(is_empty, 0)[1:], (last + 1)[1:]))
        (top, bottom), (left, right) = edges
        return torch.stack([top, left, bottom, right], dim=-1).double()

    def resized(self, image_sizes: tuple[Size, ...]) -> SegmentLayout:
        """The same segments on a larger or smaller copy of the image."""
        return self.of_labels(self._sampled(image_sizes[0]), self.names)

    def token_of_pixel(self, image: int = 0) -> Tensor:
        """The segment of each pixel, the smallest if several, ``(height, width)``."""
        self.of_image(image)
        if len(self.labels) == 1:
            return self.labels[0]
        area = torch.bincount(self.labels.flatten() + 1)
        # Pixels of no segment in a layer come last.
        area[0] = self.labels.numel()
        smallest = area[self.labels.long() + 1].argmin(0, keepdim=True)
        return self.labels.gather(0, smallest)[0]

    def painted(self, values: Tensor, image: int = 0) -> Tensor:
        """Each pixel's value: that of its segment, or the sum of several."""
        self.of_image(image)
        return _painted(values, self.labels)

    def composed(self, values: Tensor) -> Tensor:
        """The map of the values ``(..., N)`` on the view's grid, ``(..., h, w)``."""
        return _painted(values, self._sampled(self.views[0].grid))

    def _sampled(self, size: Size) -> Tensor:
        """The labels at the centres of the cells of a grid over the image."""
        rows, columns = (
            ((torch.arange(cells) + 0.5) * pixels / cells).long()
            for cells, pixels in zip(size, self.labels.shape[1:])
        )
        return self.labels[:, rows[:, None], columns]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SegmentLayout):
            return NotImplemented
        return self.names == other.names and torch.equal(self.labels, other.labels)

    __hash__ = None  # type: ignore[assignment]


def _painted(values: Tensor, labels: Tensor) -> Tensor:
    # Index -1, no segment, is the zero at the end.
    padded = torch.nn.functional.pad(values, (0, 1))
    painted: Tensor = padded[..., labels.to(values.device).long()].sum(-3)
    return painted
