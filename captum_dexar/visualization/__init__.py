"""Pictures of maps on images."""

from captum_dexar.visualization.figures import (
    layer_figure,
    sequence_figure,
    token_figure,
)
from captum_dexar.visualization.overlay import overlay
from captum_dexar.visualization.text_table import token_table

__all__ = ["layer_figure", "overlay", "sequence_figure", "token_figure", "token_table"]
