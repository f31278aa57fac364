"""What comes out: one result type for every attribution of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

from captum_dexar.inputs import ImageTokenInput
from captum_dexar.result import plots, serialization
from captum_dexar.result.answer_maps import AnswerMaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class VLMAttributionResult(AnswerMaps):
    r"""Attributions of an answer's tokens to the image's tokens.

    A Captum ``LLMAttributionResult``, whose plots work on it, with maps besides. Made
    by :class:`VLMAttribution`; every method gives the same type. Below, ``T`` is the
    number of the answer's tokens, ``N`` that of image tokens with a place, and ``h x
    w`` the grid of the map: that of the image tokens or, where several views (tiles, a
    thumbnail) cover the image, the one on which they are composed. For a prompt with
    several images each field of maps is a list, one entry per image, on a common scale.

    Attributes:
        output_tokens (list of str): the answer's tokens as text, ``T``
        target_ids (Tensor): their vocabulary ids, ``(T,)``, int64
        input_tokens (list of str): names of the image tokens, ``N``
        token_attr (Tensor): un-normalised attributions, ``(T, N)``, float32, one column
            per image token in key order; equation (5)
        seq_attr (Tensor): un-normalised attribution of the whole answer, ``(N,)``;
            equation (6) before its last normalisation
        placeless_attr (Tensor): attributions of image tokens without a place (a CLS
            token, a newline), ``(T, tokens without a place)``
        placeless_share (Tensor): their part of each token's attribution, ``(T,)``
        token_maps (Tensor): each token's map in [0, 1], ``(T, h, w)``; of a signed
            result in [-1, 1], where 0 is no attribution
        sequence_map (Tensor): the whole answer's map, likewise, ``(h, w)``
        view_maps (list of Tensor): each view's own tokens, un-normalised, ``(T, rows,
            columns)`` of the view
        token_weights (Tensor or None): how much more the image than the text raises
            each token, ``(T,)``; equation (6). Zero: nothing visual supported it.
        token_log_probs (Tensor or None): the model's log-probabilities, ``(T,)``
        convergence_delta (Tensor or None): of a method that has one and was asked for
            it (``return_convergence_delta=True``), each step's, ``(T,)``
        head_weights (Tensor or None): equation (5), ``(T, layers, heads)``
        layer_attr (Tensor or None): each layer's part of ``token_attr``, ``(T, layers,
            N)``
        layer_maps (Tensor or None): the same as maps, un-normalised, ``(T, layers, h,
            w)``
        layer_indices (list of int or None): which decoder layers these are; layers
            without attention are left out
        layout (ImageLayout): views and boxes of the image tokens
        images (list of PIL.Image.Image): the original images; empty if not known
        image (PIL.Image.Image or None): the first of them
        inp (InterpretableInput or None): the input that was explained
        special_tokens (Tensor): which of the answer's tokens are special ones (end of
            sequence ...), ``(T,)``, bool
        word_starts (Tensor): which of them begin a word, ``(T,)``, bool
        method (str): name of the attribution method

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> result = VLMAttribution(LayerDexAR(model), processor).attribute(inp)
        >>> result.token_maps.shape[1:]
        torch.Size([12, 12])
        >>> figure, axes = result.plot_tokens()
    """

    def plot_tokens(
        self, words: bool = True, show: bool = False, image: int = 0
    ) -> tuple[Figure, Any] | None:
        """The image, then one panel per word: its map, its text and its weight.

        All panels share one scale of colours, that of maps in [0, 1]; signed maps have
        a diverging one from -1 (blue) to 1 (red). The map of the word with the largest
        weight is opaque; the smaller a word's weight, the more transparent its map,
        down to ``FAINTEST`` for words of weight zero.

        Args:
            words (bool, optional): False draws one panel per token, special tokens
                included.
                Default: True
            show (bool, optional): shows the figure instead of returning it.
                Default: False
            image (int, optional): which of several images. Default: 0

        Returns:
            Figure and axes, the image's first; None if shown.
        """
        return plots.plot_tokens(self, words, show, image)

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
        return plots.plot_sequence(self, show, image)

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
        return plots.plot_layers(self, tokens, show)

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
        return plots.plot_image_heatmap(
            self, show, target_token_pos, border_width, show_legends
        )

    def save(self, path: str | Path) -> None:
        """Writes the result to one file: safetensors with JSON metadata, no pickle.

        The image is kept in it, the input and the model are not.

        Args:
            path (str or Path): an existing file is replaced once the new one is whole

        Raises:
            OSError: the file can't be written.
        """
        serialization.write(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> VLMAttributionResult:
        """Reads a result, without its model.

        Args:
            path (str or Path): a file written by :meth:`save`

        Returns:
            VLMAttributionResult equal to the one that was saved; ``inp`` holds the
            image and its features, and makes no model inputs.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no result.
        """
        fields = serialization.read(Path(path))
        images, layout = fields["images"], fields["layout"]
        inp = None
        if images and layout.is_located:
            inp = ImageTokenInput(images, layout)
        return cls(**fields, inp=inp)

    def __eq__(self, other: object) -> bool:
        """Equal in every tensor, token and pixel; the inputs are not compared."""
        if not isinstance(other, VLMAttributionResult):
            return NotImplemented
        return serialization.same_content(self, other)

    __hash__ = None  # type: ignore[assignment]
