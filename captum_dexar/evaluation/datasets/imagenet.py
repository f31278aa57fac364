"""The validation images of ImageNet (ILSVRC 2012)."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from captum_dexar.evaluation.dataset import Example
from captum_dexar.evaluation.datasets.annotation_index import Fill, IndexWriter
from captum_dexar.evaluation.datasets.folder_dataset import (
    check_name,
    FolderDataset,
    lines_of,
    loaded,
)

_FOLDERS = (".", "val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_TRUTH_FOLDERS = (
    ".",
    "data",
    "ILSVRC2012_devkit_t12/data",
    "..",
    "../data",
    "../ILSVRC2012_devkit_t12/data",
)
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
_CLASS = re.compile(r"n\d{8}")
_SUFFIXES = (".jpeg", ".jpg", ".png")


class ImageNetValidation(FolderDataset):
    """The validation images of ImageNet (ILSVRC 2012).

    The prompt is "Classify the image.", the answer the model's own. There are no
    regions: the dataset is for perturbation.

    Two layouts are read: one folder per class, named after its WordNet id
    (``n01440764/ILSVRC2012_val_00000293.JPEG``), or all images in one folder
    (``ILSVRC2012_val_00000293.JPEG``), optionally with
    ``ILSVRC2012_validation_ground_truth.txt`` beside them or in the development kit.

    Args:
        root (str or os.PathLike): the folder of the classes or images, or the one above
            (where it is called ``val``, ``ILSVRC2012_img_val`` or
            ``ILSVRC/Data/CLS-LOC/val``)
        processor, model, limit, seed: as in :class:`FolderDataset`

    Raises:
        FileNotFoundError, ValueError, TypeError: as :class:`FolderDataset`.
    """

    name = "imagenet"
    prompt = "Classify the image."

    def label(self, index: int) -> str | int | None:
        """The class of an image.

        Args:
            index (int): the sample's index

        Returns:
            The WordNet id of a layout with folders, the number from 1 to 1000 in the
            ground-truth file, or None if there is no such file.
        """
        label: str | int | None = self._sample(index)[2]["label"]
        return label

    def _fill(self) -> Fill:
        folders = [Path(os.path.normpath(self.root / one)) for one in _FOLDERS]
        for folder in folders:
            if next(_names(folder, _FLAT, is_folder=False), None) is not None:
                self._folder = folder
                truths = [folder / one / _TRUTH for one in _TRUTH_FOLDERS]
                truth = next((one for one in truths if one.is_file()), None)
                return partial(_fill_flat, folder, truth)
            if next(_names(folder, _CLASS, is_folder=True), None) is not None:
                self._folder = folder
                return partial(_fill_classes, folder)
        raise FileNotFoundError(
            "ImageNet's validation images are missing: no folder of a class, such as "
            "n01440764, and no image such as ILSVRC2012_val_00000001.JPEG. Looked in: "
            f"{', '.join(map(str, folders))}. Pass the folder of the classes or images."
        )

    def _example(self, sample_id: str, image_id: str, data: Any) -> Example:
        path = self._folder / sample_id
        image = loaded(sample_id, path)
        return self._input(sample_id, path, image, self.prompt), None, ()


def _names(folder: Path, pattern: re.Pattern[str], *, is_folder: bool) -> Iterator[str]:
    """Names of the files or folders in a folder, unsorted."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name) and entry.is_dir() == is_folder:
                    yield entry.name


def _fill_classes(folder: Path, writer: IndexWriter) -> None:
    for label in sorted(_names(folder, _CLASS, is_folder=True)):
        for name in sorted(os.listdir(folder / label)):
            if name.lower().endswith(_SUFFIXES):
                check_name(folder / label / name)
                _add(writer, f"{label}/{name}", label)
    if not writer.count:
        raise FileNotFoundError(
            f"The folders of the classes in {folder} hold no image "
            f"({', '.join(_SUFFIXES)})."
        )


def _fill_flat(folder: Path, truth: Path | None, writer: IndexWriter) -> None:
    if truth is not None:
        for number, line in enumerate(lines_of(truth), 1):
            if not line.strip().isdecimal():
                raise ValueError(
                    f"{truth} is damaged: line {number} must be the number of a "
                    f"class, got {line.strip()[:40]!r}. Download it again."
                )
            writer.add_detail("class", number, int(line))
    for name in sorted(_names(folder, _FLAT, is_folder=False)):
        numbered = _FLAT.fullmatch(name)
        assert numbered is not None
        number = int(numbered[1])
        labels = writer.details("class", number)
        if truth is not None and not labels:
            raise ValueError(f"{truth} has no line {number}, for the image {name}.")
        _add(writer, name, labels[0] if labels else None)


def _add(writer: IndexWriter, name: str, label: str | int | None) -> None:
    writer.add_sample(name, name, {"label": label})
    writer.add_to_digest(f"{name}\t{label}\n".encode())
