"""Measures of the quality of attribution maps."""

from captum_dexar.metrics.localization import (
    best_iou,
    energy_pointing_game,
    pointing_game,
    signal_to_noise,
    soft_iou,
)
from captum_dexar.metrics.pixels import on_pixels

__all__ = [
    "best_iou",
    "energy_pointing_game",
    "on_pixels",
    "pointing_game",
    "signal_to_noise",
    "soft_iou",
]
