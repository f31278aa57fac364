"""What is checked of a result file's tensors, before they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from captum_dexar.maps.composition import map_grid
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.description import Damaged, Description, StoredTensor
from torch import Tensor

SEGMENTS = "segments"
IMAGE = re.compile(r"image(0|[1-9][0-9]{0,5})")
# Maps take no more than this, or than so many times the values of the file.
_MOST_MAP_VALUES, _MOST_TIMES = 2**28, 8
# Views are composed to a map one after the other, each by way of its rows and columns.
_MOST_STEPS, _LONGEST_SIDE = 2**35, 2**13
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
    "rival_ids": ("T*", "integer"),
    "special_tokens": ("T", "bool"),
    "word_starts": ("T", "bool"),
    SEGMENTS: ("***", "integer"),
}
_REQUIRED = ("target_ids", "token_attr", "seq_attr")
_KINDS = {
    "integer": ("I64", "I32", "I16", "I8", "U8"),
    "float": ("F64", "F32", "F16", "BF16"),
    "bool": ("BOOL",),
}


def check_tensors(tensors: Mapping[str, StoredTensor], said: Description) -> None:
    """Checks shapes and kinds of numbers against each other; raises Damaged.

    Args:
        tensors (Mapping): from names to what the header says about each
        said (Description): the rest of the file
    """
    for name in _REQUIRED:
        expect(name in tensors, name, "there", "nothing")
    lengths = {"T": len(said.output_tokens), "N": _columns(said, SEGMENTS in tensors)}
    for name, (axes, kind) in _AXES.items():
        if name not in tensors:
            continue
        shape, dtype = tensors[name].shape, tensors[name].dtype
        expected = [lengths.get(axis) for axis in axes]
        fits = len(shape) == len(axes) and all(
            length in (None, given) for length, given in zip(expected, shape)
        )
        shown = ", ".join("any" if one is None else str(one) for one in expected)
        expect(fits, name, f"of the shape ({shown})", tuple(shape))
        expect(dtype in _KINDS[kind], name, f"of {kind} numbers", dtype)
        # No value is in the file of an axis that is as long as one likes if another has
        # the length 0.
        fits = prod(max(1, length) for length in shape) < 2**40
        expect(fits, name, "of a size that can be read", tuple(shape))
    if said.layer_indices is not None and "layer_attr" in tensors:
        number = tensors["layer_attr"].shape[1]
        fits = len(said.layer_indices) == number
        expect(fits, "layer_indices", f"{number} layers", said.layer_indices)
    rivals = tensors.get("rival_ids")
    shape = [] if rivals is None else rivals.shape
    numbers = [len(texts) for texts in said.rival_tokens or ()]
    fits = (rivals is None) == (said.rival_tokens is None)
    fits = fits and numbers == (shape[0] * shape[1:] if shape else [])
    expect(fits, "rival_tokens", f"the texts of rival_ids, {shape}", said.rival_tokens)
    names = [name for name in tensors if name.startswith("image")]
    expect(
        all(IMAGE.fullmatch(name) for name in names)
        and {f"image{number}" for number in range(len(names))} == set(names),
        "images",
        "image0, image1 ...",
        names,
    )
    for name in names:
        is_bytes = tensors[name].dtype == "U8" and len(tensors[name].shape) == 1
        expect(
            is_bytes, name, "a row of bytes", (tensors[name].dtype, tensors[name].shape)
        )


def _columns(said: Description, has_segments: bool) -> int:
    """Number of image tokens with a place, or of segments."""
    layout = said.layout
    if has_segments:
        number = len(layout.names or ())
        fits = number == layout.num_tokens
        expect(fits, "names", f"{layout.num_tokens} names", number)
        return number
    ends = [
        view.start + (rows - 1) * (view.row_stride or columns) + columns
        for view in layout.views
        for rows, columns in (view.grid,)
    ]
    fits = max(ends) <= layout.num_tokens
    expect(fits, "views", f"within {layout.num_tokens} tokens", max(ends))
    return sum(rows * columns for rows, columns in (v.grid for v in layout.views))


def check_labels(labels: Tensor, said: Description) -> None:
    """Checks the segments of a layout; raises Damaged."""
    layout = said.layout
    fits = labels.numel() > 0 and layout.image_sizes == (tuple(labels.shape[1:]),)
    expect(fits, SEGMENTS, "one an image's pixel", tuple(labels.shape))
    lowest, highest = int(labels.min()), int(labels.max())
    fits = -1 <= lowest and highest < layout.num_tokens
    expect(fits, SEGMENTS, f"less than {layout.num_tokens}", highest)


def check_map_sizes(layout: ImageLayout, num_tokens: int) -> None:
    """Raises Damaged for maps that take too much memory or time to make.

    Args:
        layout (ImageLayout): the places of image tokens or segments
        num_tokens (int): the answer's tokens
    """
    # One more for the map of the whole answer.
    maps, columns = num_tokens + 1, len(layout.placed)
    most = max(_MOST_MAP_VALUES, _MOST_TIMES * maps * columns)
    values = steps = 0
    for image in range(layout.num_images):
        grid = map_grid(layout, image)
        sides = [view.grid for view in layout.views if view.image == image]
        num_views = len(sides)
        if isinstance(layout, SegmentLayout):
            num_views = len(layout.labels)
            values += maps * prod(grid) * num_views
        else:
            values += maps * prod(grid)
        steps += maps * prod(grid) * num_views
        if len(sides) > 1:
            longest = max(*grid, *(max(side) for side in sides))
            fits = longest <= _LONGEST_SIDE
            expect(fits, "views", f"up to {_LONGEST_SIDE} cells long", longest)
    expect(values <= most, "maps", f"of {most} values together at most", values)
    expect(steps <= _MOST_STEPS or columns == 0, "views", "fewer or larger", steps)


def check_sizes(sizes: Sequence[tuple[int, int]], layout: ImageLayout) -> None:
    """Checks heights and widths of images against the places of their tokens; raises
    Damaged."""
    if not sizes or not layout.is_located:
        return
    expected = layout.image_sizes
    expect(tuple(sizes) == expected, "images", f"of the sizes {expected}", sizes)


def expect(holds: Any, name: str, expected: str, given: Any) -> None:
    """Raises Damaged unless something holds."""
    if not holds:
        shown = repr(given)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise Damaged(f"{name} must be {expected}, got {shown}")
