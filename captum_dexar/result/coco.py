"""Regions in the format of COCO's annotations, which pycocotools and others read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.regions import checked_threshold, Region, regions_of
from captum_dexar.result.selection import chosen_word, WordChoice
from captum_dexar.result.whole_file import write_whole
from torch import Tensor


def coco_dataset(
    result: AnswerMaps,
    words: Sequence[WordChoice] | None,
    threshold: float,
    file_names: Sequence[str] | None,
) -> dict[str, Any]:
    """See :meth:`VLMAttributionResult.coco_regions`."""
    threshold = checked_threshold(threshold)
    sizes = result.known_sizes()
    if file_names is None:
        file_names = [f"image{index}.png" for index in range(len(sizes))]
    if isinstance(file_names, str) or len(file_names) != len(sizes):
        raise ValueError(
            f"file_names must be a list with a name for each of the {len(sizes)} "
            f"images, got {file_names!r}."
        )
    every = result.words()
    if isinstance(words, str):
        raise TypeError(f"words must be a list of words, got the text {words!r}.")
    chosen = every if words is None else [chosen_word(one, every) for one in words]
    index_of = {word.tokens: index for index, word in enumerate(every)}
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for selection in chosen:
        for image in range(len(sizes)):
            for region in regions_of(result, selection, threshold, image):
                category = categories.setdefault(region.text, len(categories) + 1)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image + 1,
                        "category_id": category,
                        **annotation(region),
                        "word": index_of.get(region.tokens),
                        "weight": _weight(result, region),
                    }
                )
    return {
        "info": {
            "description": "Regions of an answer's words, by attribution",
            "method": result.method,
            "answer": result.answer,
            "threshold": threshold,
        },
        "images": [
            {"id": index + 1, "width": size[1], "height": size[0], "file_name": name}
            for index, (size, name) in enumerate(zip(sizes, file_names))
        ],
        "categories": [
            {"id": number, "name": text} for text, number in categories.items()
        ],
        "annotations": annotations,
    }


def write_coco(path: Path, dataset: dict[str, Any]) -> None:
    """Writes a dataset as JSON."""
    text = json.dumps(dataset, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def annotation(region: Region) -> dict[str, Any]:
    """What COCO says of one region: its box, mask, area and score, its share."""
    y0, x0, y1, x1 = region.box
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": region.area,
        "segmentation": run_lengths(region.mask),
        "iscrowd": 0,
        "score": region.share,
        "sign": region.sign,
        "tokens": list(region.tokens),
    }


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """A mask ``(H, W)`` as COCO's compressed run lengths, ``{"size", "counts"}``.

    Runs go down the columns, beginning with a run of zeros.
    """
    flat = mask.numpy().ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], ends, [flat.size]])
    lengths = np.diff(edges).tolist()
    if flat.size and flat[0]:
        lengths.insert(0, 0)
    return {"size": list(mask.shape), "counts": _compressed(lengths)}


def _compressed(lengths: list[int]) -> str:
    """Run lengths as text: from the fourth on, each is the difference from the one
    before the last, in groups of five bits with the lowest first; the sixth bit says
    whether more groups follow, and 48 is added to make printable characters."""
    characters = []
    for place, length in enumerate(lengths):
        rest = length - lengths[place - 2] if place > 2 else length
        while True:
            group = rest & 0x1F
            rest >>= 5
            # The fifth bit is the sign.
            is_last = rest == (-1 if group & 0x10 else 0)
            characters.append(chr(48 + group + (0 if is_last else 0x20)))
            if is_last:
                break
    return "".join(characters)


def _weight(result: AnswerMaps, region: Region) -> float | None:
    (word,) = result.words_from([region.tokens])
    # JSON has no infinity.
    is_number = word.weight is not None and math.isfinite(word.weight)
    return word.weight if is_number else None
