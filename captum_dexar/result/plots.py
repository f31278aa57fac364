"""The plots of a result."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from captum.attr import InterpretableInput, LLMAttributionResult
from captum_dexar.inputs.image_tokens import display_input
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.result.words import Word, words_of
from captum_dexar.visualization import layer_figure, sequence_figure, token_figure
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FAINTEST = 0.3
_FAINT_LABEL = "map; fainter, the smaller the word's weight"


class ResultPlots:
    """Draws what a :class:`VLMAttributionResult` holds."""

    images: list[Image.Image]
    inp: InterpretableInput | None
    layer_indices: list[int] | None
    layout: ImageLayout
    method: str
    output_tokens: list[str]
    special_tokens: Tensor
    token_log_probs: Tensor | None
    token_weights: Tensor | None
    word_starts: Tensor

    if TYPE_CHECKING:

        @property
        def answer(self) -> str: ...

        @property
        def image(self) -> Image.Image | None: ...

        @property
        def is_signed(self) -> bool: ...

        @property
        def layer_maps(self) -> Tensor | list[Tensor] | None: ...

        def _on_pixels(self, token_map: Tensor, image: int = 0) -> Tensor: ...

        @property
        def unseen_pixels(self) -> Tensor: ...

        def words(self, special: bool = False) -> list[Word]: ...

        def pixel_map(self, selection: Any = None, image: int = 0) -> Tensor: ...

    def plot_tokens(
        self, words: bool = True, show: bool = False, image: int = 0
    ) -> tuple[Figure, Any] | None:
        """The image, then a panel a word: its map, its text and its weight.

        All panels share one scale of colours, that of maps in [0, 1]; signed maps have
        a diverging one from -1 (blue) to 1 (red). The map of the word with the largest
        weight is opaque; the smaller a word's weight, the more transparent its map,
        down to ``FAINTEST`` for words of weight zero.

        Args:
            words (bool, optional): False draws a panel a token, special ones included.
                Default: True
            show (bool, optional): shows the figure instead of returning it.
                Default: False
            image (int, optional): which of several images. Default: 0

        Returns:
            Figure and axes, the image's first; None if shown.
        """
        parts = parts_of(self, words)
        opacity = self._opacity(parts)
        figure, axes = token_figure(
            np.asarray(self._known_image(image)),
            [self.pixel_map(part, image).numpy().astype(float) for part in parts],
            opacity,
            [part.text for part in parts],
            [caption_of(part) for part in parts],
            self._unseen(image),
            "map" if self.token_weights is None else _FAINT_LABEL,
            self.is_signed,
        )
        return None if _shown(show) else (figure, axes)

    def _opacity(self, parts: Sequence[Word]) -> list[float]:
        if self.token_weights is None:
            return [1.0] * len(parts)
        weights = [part.weight or 0.0 for part in parts]
        largest = max(weights, default=0.0) or 1.0
        return [FAINTEST + (1 - FAINTEST) * weight / largest for weight in weights]

    def plot_sequence(
        self, show: bool = False, image: int = 0
    ) -> tuple[Figure, Axes] | None:
        """The image, and the map of the whole answer on it.

        Args:
            show (bool, optional): shows the figure instead of returning it.
                Default: False
            image (int, optional): which of several images. Default: 0

        Returns:
            Figure and the map's axes; None if shown.
        """
        figure, axis = sequence_figure(
            np.asarray(self._known_image(image)),
            self.pixel_map(image=image).numpy().astype(float),
            self._unseen(image),
            self.answer,
            self.is_signed,
        )
        return None if _shown(show) else (figure, axis)

    def plot_layers(
        self, tokens: Sequence[int] | None = None, show: bool = False
    ) -> tuple[Figure, Any] | None:
        """What each layer contributes to each token: rows tokens, columns layers.

        A row shares one scale, from zero to the largest value of its layers; where some
        values are negative, a diverging one to the largest absolute value.

        Args:
            tokens (sequence of int, optional): which tokens. Default: all that are not
                special
            show (bool, optional): shows the figure instead of returning it.
                Default: False

        Returns:
            Figure and axes, ``(tokens, layers)``; None if shown.

        Raises:
            ValueError: there are no layer maps: the method has none, or they were not
                kept.
        """
        if self.layer_maps is None or self.layer_indices is None:
            raise ValueError(
                f"{self.method} has no maps of single layers here. LayerDexAR keeps "
                "those of long answers with attribute(..., keep_layers=True)."
            )
        if tokens is None:
            tokens = (~self.special_tokens).nonzero()[:, 0].tolist()
        maps = self.layer_maps
        if not isinstance(maps, Tensor):
            raise ValueError(
                f"The prompt has {len(maps)} images; draw one with "
                "result.of_image(index).plot_layers()."
            )
        maps = maps[list(tokens)]
        largest = maps.abs().amax(dim=(1, 2, 3), keepdim=True)
        relative = maps / largest.masked_fill(largest <= 0, 1.0)
        image = self._known_image()
        heats = [[self._on_pixels(layer).numpy() for layer in row] for row in relative]
        figure, axes = layer_figure(
            np.asarray(image),
            np.array(heats, dtype=float),
            [self.output_tokens[token] for token in tokens],
            [f"layer {index}" for index in self.layer_indices],
            self.unseen_pixels.numpy(),
            "share of the largest value in the row",
            bool((maps < 0).any()),
        )
        return None if _shown(show) else (figure, axes)

    def plot_image_heatmap(
        self,
        show: bool = False,
        target_token_pos: int | tuple[int, int] | None = None,
        border_width: int = 0,
        show_legends: bool = False,
    ) -> tuple[Figure, Axes] | None:
        """Captum's own heatmap, one cell an image token.

        Borders and legends, which need scipy, are off by default; large images are
        drawn smaller.

        Args:
            show, target_token_pos, border_width, show_legends: as in Captum's
                ``LLMAttributionResult``
        """
        if self.layout.num_images > 1:
            raise ValueError(
                f"The prompt has {self.layout.num_images} images; draw one with "
                "result.of_image(index).plot_image_heatmap()."
            )
        shown = copy.copy(self)
        shown.inp = display_input(self._known_image(), self.layout)
        drawn: tuple[Figure, Axes] | None = LLMAttributionResult.plot_image_heatmap(
            shown, show, target_token_pos, border_width, show_legends
        )
        return drawn

    def _unseen(self, image: int) -> Any:
        return (self.layout.token_of_pixel(image) < 0).numpy()

    def _known_image(self, image: int = 0) -> Image.Image:
        if not self.images:
            raise ValueError(
                "There is no image to draw on, because the input was made without the "
                "original one. Use ImagePromptInput(image, prompt, processor)."
            )
        return self.images[image]


def parts_of(result: ResultPlots, words: bool) -> list[Word]:
    """What has a panel each: the words, or all tokens, special ones included."""
    if words:
        return result.words()
    return words_of(
        result.output_tokens,
        torch.ones_like(result.word_starts),
        result.special_tokens,
        result.token_weights,
        result.token_log_probs,
        keep_special=True,
    )


def caption_of(word: Word) -> str:
    """A word's weight, where the method has one."""
    if word.weight is None:
        return ""
    return f"weight {word.weight:.3g}"


def _shown(show: bool) -> bool:
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return show
