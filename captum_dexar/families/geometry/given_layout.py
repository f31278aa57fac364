"""A layout given by the user, for a model of an unknown family."""

from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.maps.layout import ImageLayout, Size, View
from torch import Tensor


def given_layout(
    num_tokens: int,
    image_sizes: Sequence[Size] | None,
    *,
    grid: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
) -> ImageLayout:
    """The layout of one image's tokens, from a grid or from boxes.

    Args:
        num_tokens (int): image tokens of the prompt
        image_sizes (sequence of tuple of int or None): height and width of the original
            image, if known
        grid (tuple of int, optional): rows and columns over the whole image.
            Default: None
        boxes (Tensor, optional): ``(num_tokens, 4)``, y0, x0, y1, x1 in pixels of the
            original image. Default: None

    Raises:
        TypeError: The grid is no pair of integers, or the boxes are no numbers.
        ValueError: Both are given, there are several images, or the numbers of tokens
            differ.
    """
    if grid is not None and boxes is not None:
        raise ValueError("Give grid or boxes, not both.")
    if image_sizes is not None and len(image_sizes) != 1:
        raise ValueError(
            f"grid and boxes are for one image, got {len(image_sizes)}. Register an "
            "adapter for prompts with several images."
        )
    sizes = None if image_sizes is None else tuple(image_sizes)
    if grid is not None:
        rows, columns = _checked_grid(grid)
        if rows * columns != num_tokens:
            raise ValueError(
                f"grid {rows} x {columns} has {rows * columns} cells, but the prompt "
                f"has {num_tokens} image tokens."
            )
        rectangle = None
        if sizes is not None:
            rectangle = (0.0, 0.0, float(sizes[0][0]), float(sizes[0][1]))
        return ImageLayout(
            num_tokens, (View("full", (rows, columns), rectangle),), sizes
        )
    try:
        known = torch.as_tensor(boxes, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "boxes must be a tensor (image tokens, 4) of y0, x0, y1, x1, got "
            f"{type(boxes).__name__}: {error}"
        ) from None
    if known.shape != (num_tokens, 4):
        raise ValueError(
            f"boxes must be (image tokens, 4) = ({num_tokens}, 4), got "
            f"{tuple(known.shape)}."
        )
    if not bool((known[:, 2:] > known[:, :2]).all()):
        raise ValueError("boxes must be y0, x0, y1, x1 with y1 > y0 and x1 > x0.")
    if sizes is None:
        raise ValueError(
            "boxes are in pixels of the original image, which is not known. Build the "
            "input with ImagePromptInput(image, prompt, processor, boxes=...)."
        )
    views = tuple(
        View("box", (1, 1), (y0, x0, y1, x1), start=token)
        for token, (y0, x0, y1, x1) in enumerate(known.tolist())
    )
    return ImageLayout(num_tokens, views, sizes)


def _checked_grid(grid: Any) -> Size:
    is_pair = isinstance(grid, (tuple, list)) and len(grid) == 2
    if not is_pair or not all(isinstance(n, int) and n > 0 for n in grid):
        raise TypeError(
            "grid must be two positive integers, (rows, columns), got " f"{grid!r}."
        )
    return (grid[0], grid[1])
