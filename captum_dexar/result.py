"""What comes out: one result type for every attribution of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from captum.attr import InterpretableInput, LLMAttributionResult
from captum_dexar import result_file, scoring
from captum_dexar.image_tokens import ImageTokenInput, token_names
from captum_dexar.layout import ImageLayout, View
from captum_dexar.result_plots import ResultPlots
from captum_dexar.words import Word, words_of
from PIL import Image
from torch import Tensor

Selection = int | tuple[int, int] | Sequence[int] | None


class VLMAttributionResult(ResultPlots, LLMAttributionResult):
    r"""Attributions of an answer's tokens to the image's tokens.

    A Captum ``LLMAttributionResult``, whose plots work on it, with maps besides. Made
    by :class:`VLMAttribution`; every method gives the same type. Below, ``T`` is the
    number of the answer's tokens, ``N`` that of image tokens with a place, and ``h x
    w`` their grid.

    Attributes:

        output_tokens (list of str): the answer's tokens as text, ``T``
        target_ids (Tensor): their vocabulary ids, ``(T,)``, int64
        input_tokens (list of str): names of the image tokens, ``N``
        token_attr (Tensor): un-normalised attributions, ``(T, N)``, float32, one column
            an image token in key order; equation (5)
        seq_attr (Tensor): un-normalised attribution of the whole answer, ``(N,)``;
            equation (6) before its last normalisation
        placeless_attr (Tensor): attributions of image tokens without a place (a CLS
            token, say), ``(T, tokens without a place)``
        token_maps (Tensor): each token's map in [0, 1], ``(T, h, w)``
        sequence_map (Tensor): the whole answer's map in [0, 1], ``(h, w)``
        token_weights (Tensor or None): how much more the image than the text raises
            each token, ``(T,)``; equation (6). Zero: nothing visual supported it.
        token_log_probs (Tensor or None): the model's log-probabilities, ``(T,)``
        head_weights (Tensor or None): equation (5), ``(T, layers, heads)``
        layer_maps (Tensor or None): each layer's part of ``token_attr``,
            un-normalised, ``(T, layers, h, w)``
        layer_indices (list of int or None): which decoder layers these are
        layout (ImageLayout): grid and boxes of the image tokens
        image (PIL.Image.Image or None): the original image
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

    def __init__(
        self,
        *,
        output_tokens: list[str],
        target_ids: Tensor,
        token_attr: Tensor,
        seq_attr: Tensor,
        layout: ImageLayout,
        placeless_attr: Tensor | None = None,
        token_weights: Tensor | None = None,
        token_log_probs: Tensor | None = None,
        head_weights: Tensor | None = None,
        layer_maps: Tensor | None = None,
        layer_indices: list[int] | None = None,
        special_tokens: Tensor | None = None,
        word_starts: Tensor | None = None,
        image: Image.Image | None = None,
        inp: InterpretableInput | None = None,
        method: str = "",
    ) -> None:
        super().__init__(
            input_tokens=token_names(layout),
            output_tokens=output_tokens,
            seq_attr=seq_attr,
            token_attr=token_attr,
            output_probs=None if token_log_probs is None else token_log_probs.exp(),
            inp=inp,
        )
        num_tokens = len(output_tokens)
        self.target_ids = target_ids
        self.layout = layout
        self.placeless_attr = (
            token_attr.new_zeros(num_tokens, 0)
            if placeless_attr is None
            else placeless_attr
        )
        self.token_weights = token_weights
        self.token_log_probs = token_log_probs
        self.head_weights = head_weights
        self.layer_maps = layer_maps
        self.layer_indices = layer_indices
        self.special_tokens = (
            torch.zeros(num_tokens, dtype=torch.bool)
            if special_tokens is None
            else special_tokens
        )
        self.word_starts = (
            torch.ones(num_tokens, dtype=torch.bool)
            if word_starts is None
            else word_starts
        )
        self.image = image
        self.method = method
        self.token_maps = self._as_map(scoring.min_max_normalize(token_attr))
        self.sequence_map = self._as_map(scoring.min_max_normalize(seq_attr))

    def _as_map(self, values: Tensor) -> Tensor:
        picture: Tensor = values.float().unflatten(-1, self.layout.grid)
        return picture

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image tokens' grid."""
        return self.layout.grid

    @property
    def boxes(self) -> Tensor | None:
        """Each image token's box, ``(N, 4)`` as y0, x0, y1, x1 in original pixels; None
        where the original image is not known."""
        return self.layout.boxes()

    @property
    def views(self) -> tuple[View, ...]:
        """The rectangles of the image that the model sees, each with its own grid."""
        return self.layout.views

    @property
    def unseen_pixels(self) -> Tensor:
        """Pixels of the original image that no image token sees, ``(H, W)``, bool."""
        return self.layout.token_of_pixel() < 0

    def words(self, special: bool = False) -> list[Word]:
        """The answer's words, sub-word tokens merged.

        Args:
            special (bool, optional): keeps special tokens, each a word. Default: False
        """
        return words_of(
            self.output_tokens,
            self.word_starts,
            self.special_tokens,
            self.token_weights,
            self.token_log_probs,
            keep_special=special,
        )

    def token_map_of(self, selection: Selection | Word = None) -> Tensor:
        """A map in [0, 1] of part of the answer, ``(h, w)``.

        Args:
            selection (int, tuple, sequence of int or Word, optional): one token; a
                range ``(from, to)`` of tokens, the end not included; several tokens or
                a word, whose attributions are summed. Default: None, the whole answer

        Raises:
            IndexError: a token that the answer does not have.
        """
        if selection is None:
            return self.sequence_map
        tokens = self._tokens_of(selection)
        if len(tokens) == 1:
            return self.token_maps[tokens[0]]
        assert self.token_attr is not None
        summed = self.token_attr[tokens].sum(0)
        return self._as_map(scoring.min_max_normalize(summed))

    def _tokens_of(self, selection: int | Sequence[int] | Word) -> list[int]:
        num_tokens = len(self.output_tokens)
        if isinstance(selection, Word):
            tokens = list(selection.tokens)
        elif isinstance(selection, int):
            tokens = [selection]
        elif isinstance(selection, tuple):
            tokens = list(range(*slice(*selection).indices(num_tokens)))
        else:
            tokens = list(selection)
        if not tokens or any(not -num_tokens <= t < num_tokens for t in tokens):
            raise IndexError(
                f"The answer has {num_tokens} tokens, got the selection {selection!r}."
            )
        return tokens

    def pixel_map(self, selection: Selection | Word = None) -> Tensor:
        """A map on the pixels of the original image.

        Values lie at the centres of the image tokens' boxes and are interpolated
        bilinearly between them.

        Args:
            selection: as in :meth:`token_map_of`. Default: None, the whole answer

        Returns:
            *Tensor* ``(H, W)``, float32, in [0, 1]; zero where no image token sees the
            pixel (see ``unseen_pixels``).

        Raises:
            ValueError: the original image is not known.
        """
        values = self.token_map_of(selection).flatten()
        if self.layout.image_size is None:
            raise ValueError(
                "The original image is not known, because the input was made without "
                "it. Use ImagePromptInput(image, prompt, processor) as the input."
            )
        return self.views[0].render(values, self.layout.image_size)

    @property
    def answer(self) -> str:
        """The answer's words, joined."""
        return " ".join(word.text for word in self.words())

    def save(self, path: str | Path) -> None:
        """Writes the result to one file: safetensors with JSON metadata, no pickle.

        The image is kept in it, the input and the model are not.

        Args:
            path (str or Path): an existing file is replaced once the new one is whole

        Raises:
            OSError: the file can't be written.
        """
        result_file.write(Path(path), self)

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
        fields = result_file.read(Path(path))
        image, layout = fields.get("image"), fields["layout"]
        inp = None
        if image is not None and layout.boxes() is not None:
            inp = ImageTokenInput(image, layout)
        return cls(**fields, inp=inp)

    def __eq__(self, other: object) -> bool:
        """Equal in every tensor, token and pixel; the inputs are not compared."""
        if not isinstance(other, VLMAttributionResult):
            return NotImplemented
        return result_file.same_content(self, other)

    __hash__ = None  # type: ignore[assignment]
