"""PascalVOC 2012, segmentation."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum_dexar.evaluation.dataset import DamagedSample, Example, Region
from captum_dexar.evaluation.datasets.annotation_index import Fill, IndexWriter
from captum_dexar.evaluation.datasets.folder_dataset import (
    check_size,
    FolderDataset,
    found,
    lines_of,
    loaded,
    stored_picture,
)
from torch import Tensor

_BACKGROUND, _VOID = 0, 255
_LIST = "ImageSets/Segmentation/val.txt"


class PascalVOC(FolderDataset):
    """PascalVOC 2012 segmentation, the 1,449 images of the validation set.

    The prompt is "Classify the image.", the answer the model's own. The one region,
    ``(None, mask, "objects")``, compares the map of the whole answer with the union of
    all objects: the pixels whose class is neither background (0) nor void (255), the
    band around objects and what is too difficult. An image without any such pixel has
    no region. Masks refer to the pixels as they are stored, so the EXIF orientation is
    ignored.

    Read are ``ImageSets/Segmentation/val.txt``, ``JPEGImages/*.jpg`` and
    ``SegmentationClass/*.png`` of ``VOCdevkit/VOC2012``.

    Args:
        root (str or os.PathLike): the folder that holds ``VOCdevkit``, or ``VOCdevkit``
            or ``VOC2012`` itself
        processor, model, limit, seed: as in :class:`FolderDataset`

    Raises:
        FileNotFoundError, ValueError, TypeError: as :class:`FolderDataset`.
    """

    name = "voc"
    prompt = "Classify the image."

    def _fill(self) -> Fill:
        folders = ("VOCdevkit/VOC2012", "VOC2012", ".")
        listed = found(
            "the list of PascalVOC's validation images",
            self.root,
            [os.path.normpath(f"{folder}/{_LIST}") for folder in folders],
        )
        self._folder = listed.parents[2]
        for name in ("JPEGImages", "SegmentationClass"):
            found(f"PascalVOC's folder {name}", self._folder, [name], is_folder=True)
        return partial(_fill_index, listed)

    def _example(self, sample_id: str, image_id: str, data: Any) -> Example:
        path = self._folder / "JPEGImages" / f"{sample_id}.jpg"
        image = stored_picture(sample_id, path)
        mask = _union(sample_id, self._folder / "SegmentationClass")
        check_size(sample_id, path, image, mask.shape)
        regions: list[Region] = [(None, mask, "objects")] if bool(mask.any()) else []
        return self._input(sample_id, path, image, self.prompt), None, regions


def _fill_index(listed: Path, writer: IndexWriter) -> None:
    for line in lines_of(listed):
        name = line.strip()
        if name:
            writer.add_sample(name, name, None, listed)
            writer.add_to_digest(f"{name}\n".encode())
    if not writer.count:
        raise ValueError(f"{listed} lists no image. Download it again.")


def _union(sample_id: str, folder: Path) -> Tensor:
    """The union of all objects, ``(H, W)`` bool."""
    path = folder / f"{sample_id}.png"
    image = loaded(sample_id, path)
    if image.mode not in ("P", "L"):
        reason = f"classes are read from a palette image, got one of mode {image.mode}"
        raise DamagedSample(sample_id, path, reason)
    classes = np.asarray(image)
    return torch.from_numpy((classes != _BACKGROUND) & (classes != _VOID))
