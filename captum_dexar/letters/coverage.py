"""Which share of each pixel lies inside an outline."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

# Along a line the covered length is exact; so many lines are taken in each pixel.
LINES_PER_PIXEL = 8


def coverage(edges: FloatArray, width: int, height: int) -> FloatArray:
    """The share of each pixel that closed contours cover.

    Contours must not overlap, and holes have to run in the other direction, as in
    fonts.

    Args:
        edges (ndarray): ``(edges, 2, 2)``, start and end of each edge, ``(x, y)`` in
            pixels; the corner of the top left pixel is (0, 0)
        width (int): number of columns
        height (int): number of rows

    Returns:
        *ndarray* ``(height, width)``, from 0 to 1

    Examples::

        >>> import numpy as np
        >>> from captum_dexar.letters.coverage import coverage
        >>> corners = np.array([[0.0, 0.0], [1.5, 0.0], [1.5, 1.0], [0.0, 1.0]])
        >>> square = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
        >>> coverage(square, 3, 2).tolist()
        [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    lines = (np.arange(height * LINES_PER_PIXEL) + 0.5) / LINES_PER_PIXEL
    after_start = lines[:, None] >= y0
    crosses = after_start != (lines[:, None] >= y1)
    line, edge = np.nonzero(crosses)
    part = (lines[line] - y0[edge]) / (y1[edge] - y0[edge])
    x = np.clip(x0[edge] + part * (x1[edge] - x0[edge]), 0, width)
    # What lies to the right of an edge that runs downwards is inside, of one that runs
    # upwards outside (or both the other way round).
    direction = np.where(after_start[line, edge], 1.0, -1.0)
    column = np.floor(x).astype(np.int64)
    first = line // LINES_PER_PIXEL * (width + 2) + column
    of_first = direction * (column + 1 - x)
    steps = np.bincount(
        np.concatenate([first, first + 1]),
        np.concatenate([of_first, direction - of_first]),
        minlength=height * (width + 2),
    )
    covered = np.cumsum(steps.reshape(height, width + 2), axis=1)[:, :width]
    result: FloatArray = np.minimum(np.abs(covered) / LINES_PER_PIXEL, 1)
    return result
