"""Blends heatmaps with images."""

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

COLORMAP = "inferno"
# For signed maps: blue below zero, white at zero, red above.
SIGNED_COLORMAP = "RdBu_r"
# The opacity of a map's value is a multiple of this power of it.
OPACITY_POWER = 0.6
# Reduced colour, so that the image does not compete with the map.
_SATURATION = 0.5
_BRIGHTNESS = 0.9
_STRIPE_WIDTH = 40
_DARKEST_SKETCH = 0.7


class Backdrop:
    """A pale image to blend maps with.

    Args:
        image (ndarray): ``(height, width, 3)``, uint8
        unseen (ndarray): ``(height, width)``, True where no token covers the pixel;
            drawn as grey stripes
        signed (bool, optional): uses the diverging colour scale, negative values blue
            and positive ones red. Default: False
    """

    def __init__(
        self,
        image: npt.NDArray[np.uint8],
        unseen: npt.NDArray[np.bool_],
        signed: bool = False,
    ) -> None:
        self._pale = sketched(image) if signed else paled(image)
        self._striped = striped(self._pale)
        self._unseen = unseen[..., None]
        self._signed = signed

    def overlay(self, heat: FloatArray, strength: float = 1.0) -> FloatArray:
        """Blends a map with the image; the farther from zero, the more opaque.

        Args:
            heat (ndarray): ``(height, width)``, in [0, 1], or in [-1, 1] if signed
            strength (float, optional): factor on the opacity, in [0, 1]. Default: 1.0

        Returns:
            *ndarray* ``(height, width, 3)``, in [0, 1]
        """
        heat = np.clip(heat.astype(np.float32), -1.0 if self._signed else 0.0, 1.0)
        if self._signed:
            colours = matplotlib.colormaps[SIGNED_COLORMAP](0.5 + 0.5 * heat)
        else:
            colours = matplotlib.colormaps[COLORMAP](heat)
        opacity = (np.float32(0.92 * strength) * np.abs(heat) ** OPACITY_POWER)[
            ..., None
        ]
        blended = self._pale * (1 - opacity) + colours[..., :3] * opacity
        picture: FloatArray = np.where(self._unseen, self._striped, blended)
        return picture


def paled(image: npt.NDArray[np.uint8]) -> FloatArray:
    """The image with less saturation and brightness, in [0, 1]."""
    scaled = image.astype(np.float64) / 255
    grey = scaled.mean(axis=-1, keepdims=True)
    mixed: FloatArray = _SATURATION * scaled + (1 - _SATURATION) * grey
    return _BRIGHTNESS * mixed


def sketched(image: npt.NDArray[np.uint8]) -> FloatArray:
    """The image in light grey, in [0, 1], for signed maps.

    Colours could be mistaken for signs, and shadows would darken the white of zero.
    Saturated objects stay visible.
    """
    scaled = image.astype(np.float64) / 255
    grey = (scaled.mean(axis=-1) + scaled.min(axis=-1)) / 2
    low, high = np.percentile(grey, (1, 99))
    stretched = np.clip((grey - low) / max(high - low, 0.1), 0.0, 1.0)
    light = _DARKEST_SKETCH + (1 - _DARKEST_SKETCH) * stretched
    return np.repeat(light[..., None], 3, axis=-1)


def striped(picture: FloatArray) -> FloatArray:
    """The picture under diagonal stripes, for parts that no image token covers."""
    height, width = picture.shape[:2]
    period = max(2, max(height, width) // _STRIPE_WIDTH)
    diagonal = np.add.outer(np.arange(height), np.arange(width)) // period
    stripe = np.where(diagonal % 2 == 0, 0.55, 0.75)[..., None]
    return 0.25 * picture + 0.75 * np.broadcast_to(stripe, picture.shape)
