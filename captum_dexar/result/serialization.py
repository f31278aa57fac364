"""One file per result: safetensors with JSON metadata, no pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.description import (
    Damaged,
    described,
    Description,
    StoredTensor,
    tensors_of,
)
from captum_dexar.result.file_checks import (
    check_labels,
    check_map_sizes,
    check_tensors,
    SEGMENTS,
)
from captum_dexar.result.stored_images import check_pixels, decoded, encoded
from captum_dexar.result.whole_file import write_whole
from safetensors import (
    numpy as safetensors_numpy,
    SafetensorError,
    torch as safetensors_torch,
)
from torch import Tensor

FORMAT = "captum_dexar.result"
VERSION = 2
TENSORS = (
    "target_ids",
    "token_attr",
    "seq_attr",
    "placeless_attr",
    "token_weights",
    "token_log_probs",
    "convergence_delta",
    "head_weights",
    "layer_attr",
    "rival_ids",
    "special_tokens",
    "word_starts",
)
PLAIN = ("output_tokens", "layer_indices", "method")
# Texts that earlier files lack.
LATER = ("answer", "question", "rival_tokens")
# Of a safetensors file: eight bytes with the length of the header, and its limit.
_PREFIX, _LONGEST_HEADER = 8, 10**8

# What the readers of the format, JSON and tensors raise for damaged files.
UNREADABLE = (
    SafetensorError,
    ArithmeticError,
    AssertionError,
    LookupError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    Damaged,
)


def write(path: Path, result: Any) -> None:
    """Writes a result file whole or not at all.

    Raises:
        OSError: the file can't be written.
        ValueError: :func:`read` would refuse it.
    """
    tensors = {
        name: value.detach().cpu().contiguous()
        for name in TENSORS
        if (value := getattr(result, name)) is not None
    }
    content = {name: getattr(result, name) for name in (*PLAIN, *LATER)}
    content["layout"] = asdict(result.layout)
    if isinstance(result.layout, SegmentLayout):
        tensors[SEGMENTS] = content["layout"].pop("labels")
    try:
        check_pixels([(image.height, image.width) for image in result.images])
        text = json.dumps(content)
        said = described(json.loads(text))
        check_map_sizes(result.layout, len(said.output_tokens))
        for index, image in enumerate(result.images):
            tensors[f"image{index}"] = encoded(image)
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "content": text,
        }
        data = _saved(tensors, metadata)
        stored, _ = _header(data, path)
        check_tensors(stored, said)
    except (Damaged, TypeError) as error:
        raise ValueError(
            f"This result can't be written to a file that can be read: {error}."
        ) from error
    write_whole(path, data)


def _saved(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file."""
    if any(tensor.dtype is torch.bfloat16 for tensor in tensors.values()):
        # NumPy has no such numbers.
        return bytes(safetensors_torch.save(tensors, metadata=metadata))
    # The function for tensors leaves two types in memory for each length.
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return bytes(safetensors_numpy.save(arrays, metadata=metadata))


def read(path: Path) -> dict[str, Any]:
    """The arguments of :class:`VLMAttributionResult` that a file holds.

    The file is read whole, so that what becomes of it later does not matter.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no result file at {path}.")
    with path.open("rb") as file:
        start = file.read(_PREFIX)
        # Not that of a file of many gigabytes that is something else.
        start += file.read(min(int.from_bytes(start, "little"), _LONGEST_HEADER))
        try:
            stored, metadata = _header(start, path)
            data = start + file.read()
            said = described(json.loads(metadata.get("content", "")))
            check_tensors(stored, said)
            tensors = safetensors_torch.load(data)
            del data
            return _arguments(tensors, said)
        except _OtherFile as error:
            raise ValueError(str(error)) from None
        except UNREADABLE as error:
            raise ValueError(
                f"{path} is not a readable result file: {error}"
            ) from error


class _OtherFile(Exception):
    """A readable file that is no result of this version."""


def _header(start: bytes, path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors and texts that the header of a safetensors file names.

    Raises:
        _OtherFile: it is not a result of this version.
        ValueError: it is no safetensors file.
    """
    length = int.from_bytes(start[:_PREFIX], "little")
    text = start[_PREFIX : _PREFIX + length]
    if len(text) != length or not length:
        raise Damaged("it does not begin with the header of a safetensors file")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise Damaged("its header is no mapping")
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("format") != FORMAT:
        raise _OtherFile(
            f"{path} is a safetensors file, but not a result saved by "
            "VLMAttributionResult.save."
        )
    if metadata.get("version") != str(VERSION):
        raise _OtherFile(
            f"{path} has format version {metadata.get('version')}; this version of "
            f"captum-dexar reads version {VERSION}. Use the captum-dexar that "
            "wrote it, or explain the answer again."
        )
    return tensors_of(header), metadata


def _arguments(tensors: Mapping[str, Tensor], said: Description) -> dict[str, Any]:
    stored = said.layout
    views = tuple(
        View(
            name=view.name,
            grid=view.grid,
            rectangle=view.rectangle,
            start=view.start,
            image=view.image,
            row_stride=view.row_stride,
        )
        for view in stored.views
    )
    places = (stored.num_tokens, views, stored.image_sizes, stored.approximation or "")
    layout = ImageLayout(*places)
    if SEGMENTS in tensors:
        labels = tensors[SEGMENTS].int()
        check_labels(labels, said)
        layout = SegmentLayout.of_labels(labels, stored.names or ())
        if layout.views != views:
            raise Damaged("views must be one grid over the segments")
    check_map_sizes(layout, len(said.output_tokens))
    num_images = sum(name.startswith("image") for name in tensors)
    images = [tensors[f"image{index}"] for index in range(num_images)]
    return {
        **{name: tensors.get(name) for name in TENSORS},
        **{name: getattr(said, name) for name in (*PLAIN, *LATER)},
        "layout": layout,
        "images": decoded(images, layout),
    }


def same_content(one: Any, other: Any) -> bool:
    """Whether two results would be written to equal files."""
    plain = (*PLAIN, *LATER, "layout")
    if any(getattr(one, name) != getattr(other, name) for name in plain):
        return False
    for name in TENSORS:
        first, second = getattr(one, name), getattr(other, name)
        if (first is None) != (second is None):
            return False
        if first is not None and not _same_values(first, second):
            return False
    return len(one.images) == len(other.images) and all(
        np.array_equal(np.asarray(first), np.asarray(second))
        for first, second in zip(one.images, other.images)
    )


def _same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; NaN equals NaN only, so that copies are equal."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = one.cpu(), other.cpu()
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
