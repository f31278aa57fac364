"""What datasets that are read from a folder share."""

import os
import random
import warnings
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from captum_dexar.evaluation.dataset import DamagedSample, EvaluationDataset, Example
from captum_dexar.evaluation.datasets.annotation_index import AnnotationIndex, Fill
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.inputs.pictures import PROGRAMS
from PIL import ExifTags, Image
from torch import nn

_TRIAL_SIDE = 224


class FolderDataset(EvaluationDataset):
    """A dataset that is read from a folder in its published layout.

    Subclasses find their files and say how an index of the samples is filled
    (``_fill``), and make an example of a sample (``_example``). Images are opened when
    a sample is used.

    Args:
        root (str or os.PathLike): the folder
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): as in :class:`ImagePromptInput`. Default: None
        limit (int, optional): number of samples, drawn at random; they stay in the
            order of the whole. Default: None, all of them
        seed (int, optional): decides which samples are drawn. Default: 0

    Raises:
        FileNotFoundError: the folder or its files are missing.
        ValueError: a file of annotations is damaged or of another layout, or ``limit``
            is less than 1.
        TypeError, ValueError: the processor can't be used, see
            :class:`ImagePromptInput`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        processor: Any,
        model: nn.Module | None = None,
        *,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(processor, model)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(
                f"limit must be a whole number of at least 1, or None, got {limit!r}."
            )
        self.root = Path(root).absolute()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.root}. Pass the folder of the dataset "
                f"{self.name} as root."
            )
        self.limit = limit
        self.seed = seed
        # What is wrong with the processor is said here, not sample by sample.
        trial = Image.new("RGB", (_TRIAL_SIDE, _TRIAL_SIDE))
        ImagePromptInput(trial, "Describe the image.", processor, model)
        self._index = AnnotationIndex(self._fill())
        self._chosen = _drawn(len(self._index), limit, seed)

    @abstractmethod
    def _fill(self) -> Fill:
        """Finds the files, and returns what fills an index with them."""

    @abstractmethod
    def _example(self, sample_id: str, image_id: str, data: Any) -> Example:
        """The example of a sample of the index."""

    def __len__(self) -> int:
        return len(self._index) if self._chosen is None else len(self._chosen)

    def sample_id(self, index: int) -> str:
        """See :meth:`EvaluationDataset.sample_id`."""
        return self._sample(index)[0]

    def image_id(self, index: int) -> str:
        """See :meth:`EvaluationDataset.image_id`."""
        return self._sample(index)[1]

    def __getitem__(self, index: int) -> Example:
        return self._example(*self._sample(index))

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationDataset.description`."""
        return {
            **super().description(),
            "limit": self.limit,
            "seed": None if self.limit is None else self.seed,
            "annotations": self._index.digest,
        }

    def _sample(self, index: int) -> tuple[str, str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"The dataset has {len(self)} samples, got {index}.")
        return self._index.sample(
            index if self._chosen is None else self._chosen[index]
        )

    def _input(
        self, sample_id: str, path: Path, image: Image.Image, prompt: str
    ) -> ImagePromptInput:
        """The input; raises DamagedSample if the image can't be explained."""
        try:
            return ImagePromptInput(image, prompt, self.processor, self.model)
        except (ValueError, NotImplementedError) as error:
            # The processor takes other images, so this one is the reason.
            reason = f"the image can't be explained: {error}"
            raise DamagedSample(sample_id, path, reason) from error


def _drawn(count: int, limit: int | None, seed: int) -> "array[int] | None":
    """Positions of the samples; None for all."""
    if limit is None or limit >= count:
        return None
    return array("q", sorted(random.Random(seed).sample(range(count), limit)))


def found(
    what: str, root: Path, candidates: Iterable[str], *, is_folder: bool = False
) -> Path:
    """The first of several paths that is there.

    Args:
        what (str): what is looked for, for the error
        root (Path): the folder of the dataset
        candidates (iterable of str): paths relative to it
        is_folder (bool, optional): looks for a folder instead of a file. Default: False

    Raises:
        FileNotFoundError: none of them is there.
    """
    paths = [root / one for one in candidates]
    for path in paths:
        if path.is_dir() if is_folder else path.is_file():
            return path
    looked = ", ".join(map(str, paths))
    raise FileNotFoundError(
        f"Missing: {what}. Looked for: {looked}. Pass the folder in which they lie as "
        "root."
    )


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a list, without blank ones at its end and without a byte order mark.

    Raises:
        ValueError: it is no text in UTF-8.
    """
    blank = 0
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for line in lines:
                if not line.strip():
                    blank += 1
                    continue
                yield from [""] * blank
                blank = 0
                yield line.rstrip("\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is damaged: it is no text in UTF-8 ({error}). Download it "
                "again."
            ) from error


def check_name(path: Path) -> None:
    """Raises ValueError if a file's name, which becomes an id, is no text."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The name of the file {str(path)!r} is no text in UTF-8. Rename it."
        ) from error


def loaded(sample_id: str, path: Path) -> Image.Image:
    """Opens an image of a sample, and reads its pixels.

    Raises:
        DamagedSample: the file is missing, is no image or is damaged, or its image is
            so large that it may be a decompression bomb.
        OSError: the system can't read the file.
    """
    try:
        is_there = path.is_file()
    except OSError:  # such as a name that is too long
        is_there = False
    if not is_there:
        raise DamagedSample(sample_id, path, "the image is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image: Image.Image = opened
                if image.format in PROGRAMS:
                    raise ValueError(f"{image.format} is a program, and not run")
                image.load()
                # Read while the file is open.
                image.getexif()
                return image
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the network, and not of the file
        reason = f"the image can't be read: {error}"
        raise DamagedSample(sample_id, path, reason) from error


def stored_picture(sample_id: str, path: Path) -> Image.Image:
    """An image whose masks refer to the pixels as they are stored.

    Raises:
        DamagedSample: as :func:`loaded`.
    """
    image = loaded(sample_id, path)
    # Deleted, it would be read again from other metadata.
    image.getexif()[ExifTags.Base.Orientation] = 1
    return image


def check_size(
    sample_id: str, path: Path, image: Image.Image, size: Sequence[int]
) -> None:
    """Raises DamagedSample unless an image has the size ``(height, width)``."""
    if (image.height, image.width) != tuple(size):
        raise DamagedSample(
            sample_id,
            path,
            f"the image has {image.height} x {image.width} pixels, but its mask "
            f"{size[0]} x {size[1]}",
        )
