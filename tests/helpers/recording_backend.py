"""A backend of matplotlib whose windows are pictures that tests can look at."""

from typing import Any

import numpy as np
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

shown: list[Any] = []


class FigureManager(FigureManagerBase):
    """Shows a figure by keeping its pixels."""

    canvas: Any

    def show(self) -> None:
        """Called by ``pyplot.show``."""
        self.canvas.draw()
        pixels = np.asarray(self.canvas.buffer_rgba()).copy()
        shown.append((self.canvas.figure, pixels))


class FigureCanvas(FigureCanvasAgg):
    """A canvas of such a window."""

    manager_class = FigureManager
