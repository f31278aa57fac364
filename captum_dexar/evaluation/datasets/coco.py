"""COCO: captions, and the masks of the objects that their nouns name."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum_dexar.evaluation.dataset import DamagedSample, Example, Region
from captum_dexar.evaluation.datasets.annotation_index import (
    Fill,
    IndexWriter,
    json_entries,
)
from captum_dexar.evaluation.datasets.coco_words import (
    categories_by_name,
    named_categories,
    plain,
)
from captum_dexar.evaluation.datasets.folder_dataset import (
    check_size,
    FolderDataset,
    found,
    stored_picture,
)
from captum_dexar.evaluation.function_words import FUNCTION_WORDS
from captum_dexar.result.result import VLMAttributionResult
from torch import nn, Tensor

_SPLITS = ("val2017", "val2014")
KIND = "object"
# Pixels; pycocotools walks along the whole outline, and needs memory for it.
_FARTHEST = 100_000


class COCOCaptions(FolderDataset):
    """COCO's validation images with captions, and masks of what their nouns name.

    The prompt is "Describe the image.". A word of the answer that names a category, by
    its name, in the plural or by a synonym (``coco_words.SYNONYMS``), has the union of
    the masks of that category in the image: ``(tokens, mask, "object")``. Crowds, which
    COCO annotates as one region, are part of it, because the word names them, too. A
    function word (``FUNCTION_WORDS``) is ``(tokens, None)``. All other words
    are left out, also names of categories that the image has no mask of. Masks are
    COCO's own, made with pycocotools, and refer to the pixels as they are stored, so
    the EXIF orientation is ignored.

    Read are ``annotations/captions_val2017.json``,
    ``annotations/instances_val2017.json`` and ``val2017/000000000139.jpg``, or else
    those of ``val2014``.

    Args:
        root (str or os.PathLike): the folder of these; the images may lie in
            ``images``, too
        processor, model, limit, seed: as in :class:`FolderDataset`
        own_answer (bool, optional): explains the model's own answer instead of the
            image's first caption. Default: False

    Raises:
        FileNotFoundError, ValueError, TypeError: as :class:`FolderDataset`.
        ImportError: ijson or pycocotools is not installed.
    """

    name = "coco"
    prompt = "Describe the image."

    def __init__(
        self,
        root: str | os.PathLike[str],
        processor: Any,
        model: nn.Module | None = None,
        *,
        limit: int | None = None,
        seed: int = 0,
        own_answer: bool = False,
    ) -> None:
        _masks()
        self.own_answer = own_answer
        super().__init__(root, processor, model, limit=limit, seed=seed)
        self._names = dict(self._index.details("category", 0))
        self._by_name = categories_by_name(list(self._names.values()))

    def description(self) -> dict[str, Any]:
        """See :meth:`EvaluationDataset.description`."""
        return {**super().description(), "own_answer": self.own_answer}

    def _fill(self) -> Fill:
        captions = found("COCO's captions", self.root, _json_files("captions", _SPLITS))
        split = captions.stem.partition("_")[2]
        instances = found(
            "COCO's instances", self.root, _json_files("instances", [split])
        )
        self._folder = found(
            "COCO's folder of images",
            self.root,
            [split, f"images/{split}"],
            is_folder=True,
        )
        return partial(_fill_index, captions, instances)

    def _example(self, sample_id: str, image_id: str, data: Any) -> Example:
        path = self._folder / data["file"]
        image = stored_picture(sample_id, path)
        check_size(sample_id, path, image, data["size"])
        annotations = self._index.details("instance", int(image_id))
        masks: dict[str, Tensor] = {}
        for category, segmentation in annotations:
            name = self._names[category]
            try:
                mask = torch.from_numpy(mask_of(segmentation, *data["size"]))
            except Exception as error:  # pycocotools raises many types
                reason = f"the segmentation of a {name} can't be read: {error}"
                raise DamagedSample(sample_id, path, reason) from error
            masks[name] = masks[name] | mask if name in masks else mask
        masks = {name: mask for name, mask in masks.items() if bool(mask.any())}
        target = None
        if not self.own_answer:
            (target,) = self._index.details("caption", int(image_id))
        inp = self._input(sample_id, path, image, self.prompt)
        return inp, target, WordRegions(masks, self._by_name)


@dataclass(frozen=True, eq=False)
class WordRegions:
    """The regions of an answer's words, see :class:`COCOCaptions`.

    Attributes:
        masks (Mapping): ``(H, W)`` bool by category, of the categories in the image
        by_name (Mapping): the categories that a word can name
    """

    masks: Mapping[str, Tensor]
    by_name: Mapping[str, tuple[str, ...]]

    def __call__(self, result: VLMAttributionResult) -> list[Region]:
        words = result.words()
        texts = [plain(word.text) for word in words]
        regions: list[Region] = []
        start = 0
        matches = list(named_categories(texts, self.by_name))
        for first, stop, categories in [*matches, (len(words), len(words), ())]:
            for word, text in zip(words[start:first], texts[start:first]):
                if text in FUNCTION_WORDS:
                    regions.append((word.tokens, None))
            masks = [self.masks[name] for name in categories if name in self.masks]
            if masks:
                tokens = [token for word in words[first:stop] for token in word.tokens]
                union = torch.stack(masks).any(0)
                regions.append((tokens, union, KIND))
            start = stop
        return regions


def mask_of(segmentation: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask of an annotation, as COCO's own ``annToMask`` makes it.

    Args:
        segmentation (list or dict): polygons, or run lengths, compressed or not
        height (int), width (int): size of the image

    Returns:
        ndarray ``(height, width)``, bool

    Raises:
        ValueError: it has another size, or can't be read.
    """
    masks = _masks()
    if isinstance(segmentation, list):
        if not all(
            len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation
        ):
            raise ValueError("a polygon needs x and y of at least three corners")
        if any(not abs(value) <= _FARTHEST for one in segmentation for value in one):
            raise ValueError("a corner of a polygon is nowhere near the image")
        if not segmentation:
            return np.zeros((height, width), dtype=np.bool_)
        # By NumPy, polygons of four numbers would be boxes.
        runs = masks.merge(masks.frPyObjects(segmentation, height, width))
    else:
        missing = [key for key in ("size", "counts") if key not in segmentation]
        if missing:
            raise ValueError(f"its run lengths lack {' and '.join(missing)}")
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(
                f"its size is {segmentation['size']}, the image's {[height, width]}"
            )
        counts = segmentation["counts"]
        lengths = counts if isinstance(counts, list) else _run_lengths(counts)
        if not all(isinstance(length, int) and length >= 0 for length in lengths):
            raise ValueError("its run lengths are not whole numbers of pixels")
        if sum(lengths) != height * width:
            # pycocotools would leave the rest of the mask as memory happens to be.
            raise ValueError("its run lengths don't fill the image")
        runs = masks.frPyObjects(
            {"size": [height, width], "counts": lengths}, height, width
        )
    decoded: npt.NDArray[np.bool_] = masks.decode(runs).astype(np.bool_)
    return decoded


def _run_lengths(text: str) -> list[int]:
    """The run lengths of a compressed text, as COCO's ``rleFrString`` reads it.

    Characters hold five bits, the lowest first, and whether more follow. From the
    fourth number on, a number is the difference from the one before the last.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} is no character of compressed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(lengths) > 2:
            value += lengths[-2]
        lengths.append(value)
        value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths are cut off")
    return lengths


def _masks() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "COCO's masks are made with pycocotools, which is not installed: pip "
            'install "captum-dexar[evaluation]".'
        ) from error
    return mask


def _json_files(kind: str, splits: Sequence[str]) -> list[str]:
    return [
        f"{folder}{kind}_{split}.json"
        for split in splits
        for folder in ("annotations/", "")
    ]


def _fill_index(captions: Path, instances: Path, writer: IndexWriter) -> None:
    known = set()
    for entry in json_entries(instances, "categories", {"id": int, "name": str}):
        writer.add_detail("category", 0, (entry["id"], entry["name"]))
        known.add(entry["id"])
    keys: dict[str, Any] = {
        "image_id": int,
        "category_id": int,
        "segmentation": (list, dict),
    }
    for entry in json_entries(instances, "annotations", keys, writer):
        image, category, segmentation = (entry[key] for key in keys)
        if category not in known:
            raise ValueError(
                f"{instances} has an annotation of the category {category}, which is "
                "not in its list of categories. Download it again."
            )
        writer.add_detail("instance", image, (category, segmentation))
    keys = {"image_id": int, "caption": str}
    for entry in json_entries(captions, "annotations", keys, writer):
        image, caption = (entry[key] for key in keys)
        if caption.strip() and not writer.details("caption", image):
            writer.add_detail("caption", image, caption.strip())
    keys = {"id": int, "file_name": str, "height": int, "width": int}
    for entry in json_entries(captions, "images", keys):
        image, file, height, width = (entry[key] for key in keys)
        if writer.details("caption", image):
            data = {"file": file, "size": (height, width)}
            writer.add_sample(str(image), str(image), data, captions)
