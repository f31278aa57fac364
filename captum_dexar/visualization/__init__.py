"""Figures of maps on images."""

from captum_dexar.visualization.answer_text import TintedWord
from captum_dexar.visualization.comparison_figure import comparison_figure, MethodRow
from captum_dexar.visualization.figures import (
    layer_figure,
    sequence_figure,
    sequence_panel,
)
from captum_dexar.visualization.given_place import check_axes_or_figure, check_figure
from captum_dexar.visualization.head_figure import head_figure, head_panel
from captum_dexar.visualization.overlay import Backdrop
from captum_dexar.visualization.text import show_as_it_is
from captum_dexar.visualization.text_figure import Plot, show_figure
from captum_dexar.visualization.token_figure import (
    token_figure,
    word_figure,
    word_panel,
    WordPanel,
)

__all__ = [
    "Backdrop",
    "MethodRow",
    "Plot",
    "TintedWord",
    "WordPanel",
    "check_axes_or_figure",
    "check_figure",
    "comparison_figure",
    "head_figure",
    "head_panel",
    "layer_figure",
    "sequence_figure",
    "sequence_panel",
    "show_as_it_is",
    "show_figure",
    "token_figure",
    "word_figure",
    "word_panel",
]
