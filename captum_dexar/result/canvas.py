"""An image and its maps at the size at which a figure shows them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
from captum_dexar.maps.composition import map_view
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.words import Word
from PIL import Image
from torch import Tensor

# Pixels of all panels of a figure together, and limits for one panel's longer side: 300
# per inch for forty panels of 1.5 inches.
_ALL_PIXELS = 3072**2
_LARGEST_SIDE, _SMALLEST_SIDE = 1024, 128


class Canvas:
    """One image of a result, and its maps, downscaled for a figure.

    Args:
        result (AnswerMaps): the result
        image (int): index of the image
        num_panels (int): number of pictures in the figure; the more, the smaller

    Attributes:
        pixels (ndarray): the image, ``(height, width, 3)``, uint8
        unseen (ndarray): ``(height, width)``, True where no token covers the pixel

    Raises:
        ValueError: the original image is not known.
    """

    def __init__(self, result: AnswerMaps, image: int, num_panels: int) -> None:
        original = known_image(result, image)
        sizes = list(result.known_sizes())
        side = int(sqrt(_ALL_PIXELS / max(1, num_panels)))
        side = min(_LARGEST_SIDE, max(_SMALLEST_SIDE, side))
        scale = min(1.0, side / max(original.size))
        width, height = (max(1, round(scale * one)) for one in original.size)
        picture = original.convert("RGB")
        if (width, height) != original.size:
            picture = picture.resize((width, height), reducing_gap=3.0)
        self.pixels: npt.NDArray[np.uint8] = np.asarray(picture)
        sizes[image] = height, width
        layout = result.layout.resized(tuple(sizes))
        self.unseen: npt.NDArray[np.bool_] = (layout.token_of_pixel(image) < 0).numpy()
        self._view = map_view(result.layout, image).scaled(
            height / original.height, width / original.width
        )
        self._result, self._image = result, image

    def heat(
        self, selection: int | Sequence[int] | Word | None
    ) -> npt.NDArray[np.float32]:
        """The map of a part of the answer; see :meth:`AnswerMaps.token_map_of`."""
        maps = self._result.token_map_of(selection)
        return self.painted(maps if isinstance(maps, Tensor) else maps[self._image])

    def painted(self, token_map: Tensor) -> npt.NDArray[np.float32]:
        """A map ``(h, w)`` on the pixels; zero where no token covers them."""
        height, width = self.unseen.shape
        painted = self._view.render(token_map.flatten(), (height, width)).numpy()
        seen: npt.NDArray[np.float32] = np.where(self.unseen, np.float32(0), painted)
        return seen


def known_image(result: AnswerMaps, image: int = 0) -> Image.Image:
    """One of the original images.

    Raises:
        ValueError: they are not known.
        IndexError: there is no such image.
    """
    if not result.images:
        raise ValueError(
            "There is no image to draw on, because the input was created without the "
            "original one. Use ImagePromptInput(image, prompt, processor)."
        )
    result.layout.check_image(image)
    return result.images[image]
