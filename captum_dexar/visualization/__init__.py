"""Figures of maps on images."""

from captum_dexar.visualization.comparison_figure import comparison_figure, MethodRow
from captum_dexar.visualization.figures import (
    layer_figure,
    sequence_figure,
    sequence_panel,
    token_figure,
)
from captum_dexar.visualization.overlay import Backdrop
from captum_dexar.visualization.text import show_as_it_is

__all__ = [
    "MethodRow",
    "comparison_figure",
    "layer_figure",
    "Backdrop",
    "sequence_figure",
    "sequence_panel",
    "show_as_it_is",
    "token_figure",
]
