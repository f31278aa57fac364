"""One file per result: safetensors with JSON metadata, no pickle."""

import io
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.file_checks import (
    check_content,
    check_images,
    check_labels,
    check_tensors,
    Damaged,
)
from PIL import Image, UnidentifiedImageError
from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
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
    "special_tokens",
    "word_starts",
)
REQUIRED = ("target_ids", "token_attr", "seq_attr")
# The labels of a SegmentLayout.
SEGMENTS = "segments"
PLAIN = ("output_tokens", "layer_indices", "method")
# Texts that earlier files lack.
LATER = ("answer", "question")

UNREADABLE = (
    SafetensorError,
    KeyError,
    TypeError,
    json.JSONDecodeError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OverflowError,
    RecursionError,
    Damaged,
)


def write(path: Path, result: Any) -> None:
    """Writes a temporary file next to ``path``, then renames it atomically."""
    tensors = {
        name: value.detach().cpu().contiguous()
        for name in TENSORS
        if (value := getattr(result, name)) is not None
    }
    for index, image in enumerate(result.images):
        png = io.BytesIO()
        image.save(png, format="PNG")
        tensors[f"image{index}"] = torch.from_numpy(
            np.frombuffer(png.getvalue(), dtype=np.uint8).copy()
        )
    content = {name: getattr(result, name) for name in (*PLAIN, *LATER)}
    content["layout"] = asdict(result.layout)
    if isinstance(result.layout, SegmentLayout):
        tensors[SEGMENTS] = content["layout"].pop("labels")
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "content": json.dumps(content),
    }
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        save_file(tensors, unfinished, metadata=metadata)
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def read(path: Path) -> dict[str, Any]:
    """The arguments of :class:`VLMAttributionResult` that a file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no result file at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is a safetensors file, but not a result saved by "
                    "VLMAttributionResult.save."
                )
            if metadata["version"] != str(VERSION):
                raise ValueError(
                    f"{path} has format version {metadata['version']}; this version of "
                    f"captum-dexar reads version {VERSION}. Use the captum-dexar that "
                    "wrote it, or explain the answer again."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            content = json.loads(metadata["content"])
            return _arguments(tensors, content)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable result file: {error}") from error


def _arguments(tensors: dict[str, Tensor], content: dict[str, Any]) -> dict[str, Any]:
    check_content(content)
    stored = content["layout"]
    views = tuple(
        View(
            name=view["name"],
            grid=tuple(view["grid"]),
            rectangle=None if view["rectangle"] is None else tuple(view["rectangle"]),
            start=view["start"],
            image=view["image"],
            row_stride=view["row_stride"],
        )
        for view in stored["views"]
    )
    sizes = stored["image_sizes"]
    arguments: dict[str, Any] = {name: tensors.get(name) for name in TENSORS}
    arguments |= {name: tensors[name] for name in REQUIRED}
    arguments |= {name: content[name] for name in PLAIN}
    arguments |= {name: content.get(name) for name in LATER}
    places = (
        stored["num_tokens"],
        views,
        None if sizes is None else tuple(tuple(size) for size in sizes),
        stored.get("approximation") or "",
    )
    arguments["layout"] = ImageLayout(*places)
    if SEGMENTS in tensors:
        check_labels(tensors[SEGMENTS], content)
        arguments["layout"] = SegmentLayout(
            *places, labels=tensors[SEGMENTS], names=tuple(stored["names"])
        )
    check_tensors(tensors, content, arguments["layout"])
    num_images = sum(name.startswith("image") for name in tensors)
    arguments["images"] = [
        _decoded(tensors[f"image{index}"], index) for index in range(num_images)
    ]
    check_images(arguments["images"], arguments["layout"])
    return arguments


def _decoded(png: Tensor, index: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(png.numpy().tobytes()), formats=["PNG"])
        converted: Image.Image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise Damaged(f"image {index} can't be read: {error}") from error
    return converted


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
