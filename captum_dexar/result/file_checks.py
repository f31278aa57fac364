"""What is checked of a result file, which may be damaged or made by anybody."""

from __future__ import annotations

import math
from typing import Any

from captum_dexar.maps.layout import ImageLayout
from captum_dexar.maps.segments import LONGEST_SIDE, SegmentLayout
from PIL import Image
from torch import Tensor

# Sizes from here on are refused, rather than tried to make room for.
_MOST_TOKENS, _MOST_PIXELS = 10**8, 2**30
# By name: the axes, and which kind of number. T are the answer's tokens, N the image
# tokens with a place; other axes have any length.
_AXES = {
    "target_ids": ("T", "integer"),
    "token_attr": ("TN", "float"),
    "seq_attr": ("N", "float"),
    "placeless_attr": ("T*", "float"),
    "token_weights": ("T", "float"),
    "token_log_probs": ("T", "float"),
    "convergence_delta": ("T", "float"),
    "head_weights": ("T**", "float"),
    "layer_attr": ("T*N", "float"),
    "special_tokens": ("T", "bool"),
    "word_starts": ("T", "bool"),
}


class Damaged(Exception):
    """A file does not hold a result; the message says in what."""


def check_content(content: Any) -> None:
    """Checks the types of what is written as JSON; raises Damaged."""
    _expect(isinstance(content, dict), "the content", "a mapping", content)
    tokens = content["output_tokens"]
    _expect(_is_list(tokens, str), "output_tokens", "a list of texts", tokens)
    method = content["method"]
    _expect(isinstance(method, str), "method", "a text", method)
    for name in ("answer", "question"):
        text = content.get(name)
        _expect(text is None or isinstance(text, str), name, "a text", text)
    layers = content["layer_indices"]
    is_known = layers is None or _is_list(layers, int)
    _expect(is_known, "layer_indices", "a list of integers", layers)
    _check_layout(content["layout"])


def _check_layout(layout: Any) -> None:
    _expect(isinstance(layout, dict), "layout", "a mapping", layout)
    number, views, sizes = (
        layout[name] for name in ("num_tokens", "views", "image_sizes")
    )
    is_count = type(number) is int and 0 <= number <= _MOST_TOKENS
    _expect(is_count, "num_tokens", "a number of tokens", number)
    _expect(_is_list(views, dict) and views, "views", "a list of views", views)
    for view in views:
        _check_view(view)
    images = {view["image"] for view in views}
    _expect(images == set(range(len(images))), "images", "numbered from 0", images)
    if sizes is not None:
        are_sizes = isinstance(sizes, list) and all(_is_size(size) for size in sizes)
        _expect(are_sizes, "image_sizes", "heights and widths", sizes)
        _expect(len(sizes) == len(images), "image_sizes", "one an image", sizes)
    # Earlier files do not say.
    approximation = layout.get("approximation")
    is_said = approximation is None or isinstance(approximation, str)
    _expect(is_said, "approximation", "a text", approximation)
    if "names" in layout:
        names = layout["names"]
        _expect(_is_list(names, str), "names", "a list of texts", names)


def _check_view(view: dict[str, Any]) -> None:
    _expect(isinstance(view["name"], str), "a view's name", "a text", view["name"])
    _expect(_is_size(view["grid"]), "grid", "rows and columns", view["grid"])
    for name in ("start", "image"):
        is_place = type(view[name]) is int and 0 <= view[name] < _MOST_TOKENS
        _expect(is_place, name, "an integer from 0", view[name])
    stride = view["row_stride"]
    is_stride = stride is None or (type(stride) is int and 0 < stride < _MOST_TOKENS)
    _expect(is_stride, "row_stride", "a positive integer", stride)
    box = view["rectangle"]
    if box is not None:
        is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
        is_box = is_box and box[0] < box[2] and box[1] < box[3]
        _expect(is_box, "rectangle", "y0, x0, y1, x1", box)


def check_labels(labels: Tensor, content: dict[str, Any]) -> None:
    """Checks the segments of a layout; raises Damaged."""
    layout = content["layout"]
    fits = labels.ndim == 3 and not labels.is_floating_point() and labels.numel() > 0
    fits = fits and layout["image_sizes"] == [list(labels.shape[1:])]
    _expect(fits, "segments", "one an image's pixel", tuple(labels.shape))
    number = layout["num_tokens"]
    is_named = len(layout["names"]) == number
    _expect(is_named, "names", f"{number} names", len(layout["names"]))
    lowest, highest = int(labels.min()), int(labels.max())
    fits = -1 <= lowest and highest < number
    _expect(fits, "segments", f"less than {number}", highest)
    grid = layout["views"][0]["grid"]
    fits = len(layout["views"]) == 1 and max(grid) <= LONGEST_SIDE
    _expect(fits, "views", "one grid over the segments", grid)


def check_tensors(
    tensors: dict[str, Tensor], content: dict[str, Any], layout: ImageLayout
) -> None:
    """Checks shapes and kinds of numbers against each other; raises Damaged."""
    if isinstance(layout, SegmentLayout):
        columns = layout.num_tokens
    else:
        columns = sum(view.num_tokens for view in layout.views)
        last = max(
            view.start
            + (view.grid[0] - 1) * (view.row_stride or view.grid[1])
            + view.grid[1]
            for view in layout.views
        )
        fits = last <= layout.num_tokens
        _expect(fits, "views", f"within {layout.num_tokens} tokens", last)
    lengths = {"T": len(content["output_tokens"]), "N": columns}
    for name, (axes, kind) in _AXES.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        expected = [lengths.get(axis) for axis in axes]
        fits = tensor.ndim == len(axes) and all(
            length in (None, given) for length, given in zip(expected, tensor.shape)
        )
        shape = ", ".join("any" if one is None else str(one) for one in expected)
        _expect(fits, name, f"of the shape ({shape})", tuple(tensor.shape))
        _expect(_kind(tensor) == kind, name, f"of {kind} numbers", tensor.dtype)
    indices = content["layer_indices"]
    if indices is not None and "layer_attr" in tensors:
        number = tensors["layer_attr"].shape[1]
        fits = len(indices) == number
        _expect(fits, "layer_indices", f"{number} layers", indices)


def check_images(images: list[Image.Image], layout: ImageLayout) -> None:
    """Checks the images against the places of their tokens; raises Damaged."""
    if not images or not layout.is_located:
        return
    given = tuple((image.height, image.width) for image in images)
    fits = given == layout.image_sizes
    _expect(fits, "images", f"of the sizes {layout.image_sizes}", given)


def _kind(tensor: Tensor) -> str:
    if tensor.dtype.is_floating_point:
        return "float"
    if tensor.dtype.is_complex:
        return "complex"
    return "bool" if str(tensor.dtype) == "torch.bool" else "integer"


def _is_list(values: Any, kind: type) -> bool:
    """Whether all values of a list are of this very type: True is no integer."""
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_size(size: Any) -> bool:
    is_pair = _is_list(size, int) and len(size) == 2 and min(size) > 0
    return is_pair and size[0] * size[1] <= _MOST_PIXELS


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _expect(holds: Any, name: str, expected: str, given: Any) -> None:
    if not holds:
        shown = repr(given)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise Damaged(f"{name} must be {expected}, got {shown}")
