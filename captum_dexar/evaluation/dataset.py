"""What an evaluation runs on: images, answers, and the regions that words refer to."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable, TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from captum_dexar.result.result import VLMAttributionResult
from torch import nn, Tensor

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Self

Mask: TypeAlias = Tensor | np.ndarray[Any, Any] | None
Region: TypeAlias = (
    tuple[Sequence[int] | None, Mask] | tuple[Sequence[int] | None, Mask, str]
)
Regions: TypeAlias = (
    Sequence[Region] | Callable[[VLMAttributionResult], Sequence[Region]]
)
ReadRegions: TypeAlias = list[tuple[list[int] | None, Tensor | None, str | None]]
Example: TypeAlias = tuple[Any, Any, Regions]


class DamagedSample(Exception):
    """A sample of a dataset that can't be used: its image is missing or damaged.

    Args:
        sample_id (str): the sample's id in its dataset
        path (str or os.PathLike): the file
        reason (str): what is wrong with it
    """

    def __init__(self, sample_id: str, path: str | Path, reason: str) -> None:
        # These are what a copy of the exception is made from, also when unpickled.
        super().__init__(sample_id, str(path), reason)
        self.sample_id = sample_id
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"Sample {self.sample_id} is skipped: {self.reason} ({self.path})"


class EvaluationDataset(ABC):
    r"""A dataset of :func:`evaluate` with ids, random access and a description.

    An example is a triple ``(input, target, regions)``:

    - the input and the target, as :meth:`VLMAttribution.attribute` takes them. A target
      of None is the model's own answer, which all methods explain.
    - the regions of the image that parts of the answer refer to, each ``(tokens,
      mask)`` or ``(tokens, mask, kind)``. ``tokens`` are positions in the answer, or
      None for the map of the whole answer. ``mask`` is ``(H, W)`` bool on the original
      image, or None for tokens that refer to nothing in it. Instead of a sequence, a
      function from the :class:`VLMAttributionResult` to one, for answers that are not
      known before.

    Subclasses define ``name``, ``__len__``, ``sample_id`` and ``__getitem__``.

    Args:
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None

    Attributes:
        name (str): a short name, such as ``"voc"``
        skipped (list of DamagedSample): the samples that the last iteration skipped
    """

    name: str = ""

    def __init__(self, processor: Any, model: nn.Module | None = None) -> None:
        self.processor = processor
        self.model = model
        self.skipped: list[DamagedSample] = []

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples, damaged ones included."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """A sample's id: unique, and the same in every run. Opens no image."""

    def image_id(self, index: int) -> str:
        """The id of a sample's image. Samples of one image are not independent.

        Args:
            index (int): the sample's index

        Returns:
            str, by default the sample's own id: each sample has an image of its own.
        """
        return self.sample_id(index)

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """One example.

        Raises:
            DamagedSample: its files are missing or damaged.
            IndexError: there is no such example.
        """

    def __iter__(self) -> Iterator[Example]:
        """All examples in order. Damaged ones are skipped with a warning."""
        self.skipped = []
        for index in range(len(self)):
            try:
                example = self[index]
            except DamagedSample as damaged:
                self.skipped.append(damaged)
                warnings.warn(str(damaged), stacklevel=2)
            else:
                yield example

    def description(self) -> dict[str, Any]:
        """What two runs must have in common to be comparable, as JSON values.

        It holds no local path: the same data in another folder are the same dataset.
        """
        return {"name": self.name, "samples": len(self)}

    def for_model(self, processor: Any, model: nn.Module | None = None) -> Self:
        """The same samples for another model; annotations are not read again."""
        other = copy.copy(self)
        other.processor = processor
        other.model = model
        other.skipped = []
        return other


@runtime_checkable
class RedrawnScenes(Protocol):
    """What a dataset has besides whose scenes can be made again without an object.

    A dataset with these two methods works with :class:`EffectsProtocol`, whatever it
    inherits from. Without the object, everything else of the image must be the same:
    what then changes is the object's true effect.
    """

    def object_masks(self, index: int) -> Sequence[Tensor | np.ndarray[Any, Any]]:
        """The mask of each object of a sample, ``(H, W)`` on the original image.

        Raises:
            DamagedSample, IndexError: as the dataset's ``__getitem__``.
        """

    def without(self, index: int, objects: Sequence[int]) -> Image.Image:
        """A sample's image without some of its objects, of the same size.

        Args:
            index (int): the sample's index
            objects (sequence of int): which objects, as places in ``object_masks``

        Raises:
            DamagedSample, IndexError: as the dataset's ``__getitem__``.
        """


def read_regions(regions: Regions, result: VLMAttributionResult) -> ReadRegions:
    """The regions of an example, as ``(tokens, mask, kind)``; masks as bool tensors.

    Args:
        regions (sequence or callable): see :class:`EvaluationDataset`
        result (VLMAttributionResult): the explained answer

    Returns:
        list; ``kind`` is None where none is given.

    Raises:
        ValueError: a region has no tokens or invalid positions, or neither tokens nor a
            mask.
    """
    listed = regions(result) if callable(regions) else regions
    read = []
    for tokens, mask, *kind in listed:
        positions = _positions(tokens, mask, result)
        read.append((positions, _as_bools(mask), kind[0] if kind else None))
    return read


def _as_bools(mask: Mask) -> Tensor | None:
    if mask is None:
        return None
    return (mask if isinstance(mask, Tensor) else torch.tensor(mask)).bool()


def _positions(
    tokens: Sequence[int] | None, mask: Mask, result: VLMAttributionResult
) -> list[int] | None:
    if tokens is None:
        if mask is None:
            raise ValueError(
                "a region has neither tokens nor a mask, so that nothing can be "
                "measured on it. Leave it out."
            )
        return None
    positions = list(tokens)
    num_tokens = len(result.output_tokens)
    if not positions or any(not 0 <= t < num_tokens for t in positions):
        raise ValueError(
            f"the answer has {num_tokens} tokens, got a region of the tokens "
            f"{positions}. They are counted from 0, in the model's own tokens."
        )
    return positions
