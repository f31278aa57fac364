"""Attributions of an answer's tokens to image tokens, as maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from captum.attr import InterpretableInput, LLMAttributionResult
from captum_dexar.maps.composition import compose, map_grid, map_view
from captum_dexar.maps.image_tokens import ImageTokenInput, token_names
from captum_dexar.maps.layout import ImageLayout, Size, View
from captum_dexar.maps.normalization import min_max_normalize, scale_signed
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.selection import selected_tokens, Selection
from captum_dexar.result.words import Word, word_groups, words_of
from captum_dexar.visualization.text import label
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from captum_dexar.methods.verification import Verification
    from typing_extensions import Self

_LONGEST_ANSWER = 60

Maps = Tensor | list[Tensor]


class AnswerMaps(LLMAttributionResult):
    """The data and maps of :class:`VLMAttributionResult`, without plots and files."""

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
        convergence_delta: Tensor | None = None,
        head_weights: Tensor | None = None,
        layer_attr: Tensor | None = None,
        layer_indices: list[int] | None = None,
        rival_ids: Tensor | None = None,
        rival_tokens: list[list[str]] | None = None,
        special_tokens: Tensor | None = None,
        word_starts: Tensor | None = None,
        images: Sequence[Image.Image] = (),
        inp: InterpretableInput | None = None,
        method: str = "",
        answer: str | None = None,
        question: str | None = None,
        verification: Verification | None = None,
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
        if placeless_attr is None:
            placeless_attr = token_attr.new_zeros(num_tokens, 0)
        if special_tokens is None:
            special_tokens = torch.zeros(num_tokens, dtype=torch.bool)
        if word_starts is None:
            word_starts = torch.ones(num_tokens, dtype=torch.bool)
        self.target_ids = target_ids
        self.layout = layout
        self.placeless_attr = placeless_attr
        self.token_weights = token_weights
        self.token_log_probs = token_log_probs
        self.convergence_delta = convergence_delta
        self.head_weights = head_weights
        self.layer_attr = layer_attr
        self.layer_indices = layer_indices
        self.rival_ids = rival_ids
        self.rival_tokens = rival_tokens
        self.special_tokens = special_tokens
        self.word_starts = word_starts
        self.images = list(images)
        self.method = method
        self.question = question
        self.verification = verification
        if answer is None:
            answer = " ".join(word.text for word in self.words())
        self.answer = answer
        self.token_maps = self._normalized(token_attr)
        self.sequence_map = self._normalized(seq_attr)

    def _composed(self, values: Tensor) -> list[Tensor]:
        """Maps values ``(..., N)`` to one map per image, ``(..., h, w)``."""
        images = range(self.layout.num_images)
        return [compose(values, self.layout, image) for image in images]

    def _normalized(self, values: Tensor) -> Maps:
        """Maps in [0, 1], or [-1, 1] if signed; all images share one scale."""
        maps = self._composed(values)
        joint = self._scaled(torch.cat([one.flatten(-2) for one in maps], dim=-1))
        cells = [one.shape[-2] * one.shape[-1] for one in maps]
        return _one_or_all(
            [
                part.unflatten(-1, one.shape[-2:])
                for part, one in zip(joint.split(cells, dim=-1), maps)
            ]
        )

    def _scaled(self, values: Tensor) -> Tensor:
        """Scaled along the last axis to [0, 1], or to [-1, 1] if signed."""
        scale = scale_signed if self.is_signed else min_max_normalize
        scaled: Tensor = scale(values).float()
        return scaled

    @property
    def is_signed(self) -> bool:
        """Whether any attribution is negative. Maps of a signed result are divided by
        their largest absolute value instead of min-max normalised."""
        assert self.token_attr is not None
        return bool((self.token_attr < 0).any())

    @property
    def image(self) -> Image.Image | None:
        """The (first) original image; None if not known."""
        return self.images[0] if self.images else None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the (first) image's map."""
        return map_grid(self.layout)

    @property
    def layer_maps(self) -> Maps | None:
        """Each layer's part of ``token_attr`` as maps, ``(T, layers, h, w)``."""
        if self.layer_attr is None:
            return None
        return _one_or_all(self._composed(self.layer_attr))

    @property
    def view_maps(self) -> list[Tensor]:
        """Each view's own tokens, un-normalised, ``(T, rows, columns)`` of the view."""
        assert self.token_attr is not None
        return [
            self.token_attr[:, column].unflatten(-1, view.grid)
            for view, column in self.layout.columns()
        ]

    @property
    def placeless_share(self) -> Tensor:
        """Share of each token's absolute attribution on image tokens that cover no
        pixel: those without a place or on padding only, ``(T,)``."""
        assert self.token_attr is not None
        size = self.token_attr.abs()
        on_tokens = size.sum(1)
        off_image = self.placeless_attr.abs().sum(1)
        total = on_tokens + off_image
        if self.boxes is not None:
            y0, x0, y1, x1 = self.boxes.T
            off_image = off_image + size[:, (y1 - y0) * (x1 - x0) <= 0].sum(1)
        share: Tensor = off_image / total.where(total > 0, 1.0)
        return share

    def of_image(self, image: int) -> Self:
        """The result for one of several images.

        Args:
            image (int): index of the image in the prompt, from 0

        Returns:
            VLMAttributionResult, whose maps are scaled separately; tokens without a
            place are left out.

        Raises:
            IndexError: there is no such image.
        """
        layout, columns = self.layout.of_image(image)
        assert self.token_attr is not None
        images = self.images[image : image + 1]
        return type(self)(
            output_tokens=self.output_tokens,
            target_ids=self.target_ids,
            token_attr=self.token_attr[:, columns],
            seq_attr=self.seq_attr[columns],
            layout=layout,
            token_weights=self.token_weights,
            token_log_probs=self.token_log_probs,
            convergence_delta=self.convergence_delta,
            head_weights=self.head_weights,
            layer_attr=(
                None if self.layer_attr is None else self.layer_attr[..., columns]
            ),
            layer_indices=self.layer_indices,
            rival_ids=self.rival_ids,
            rival_tokens=self.rival_tokens,
            special_tokens=self.special_tokens,
            word_starts=self.word_starts,
            images=images,
            inp=ImageTokenInput(images, layout) if images else None,
            method=self.method,
            answer=self.answer,
            question=self.question,
            verification=self.verification,
        )

    @property
    def boxes(self) -> Tensor | None:
        """Each image token's box, ``(N, 4)`` as y0, x0, y1, x1 in original pixels; None
        if the original image is not known."""
        return self.layout.boxes()

    @property
    def views(self) -> tuple[View, ...]:
        """The image regions that the model sees, each with its own grid."""
        return self.layout.views

    @property
    def unseen_pixels(self) -> Tensor:
        """Pixels of the original image that no image token covers, ``(H, W)``, bool."""
        return self.layout.token_of_pixel() < 0

    def words(self, special: bool = False) -> list[Word]:
        """The answer's words, sub-word tokens merged.

        Words end at white space and, in scripts that are written without it, at the
        word boundaries of Unicode (UAX #29) that lie between tokens: no token is split.
        Punctuation belongs to the word that it touches. Words of Thai, Lao, Khmer and
        Burmese can't be found without a dictionary; there every token is a word that
        does not continue a character.

        Args:
            special (bool, optional): includes special tokens as words. Default: False
        """
        groups = word_groups(
            self.output_tokens, self.word_starts, self.special_tokens, special
        )
        return self.words_from(groups)

    def words_from(self, groups: Sequence[Sequence[int]]) -> list[Word]:
        """Words of given tokens, one for each group of positions."""
        return words_of(
            self.output_tokens, groups, self.token_weights, self.token_log_probs
        )

    def token_map_of(self, selection: Selection = None) -> Maps:
        """The map of a part of the answer, ``(h, w)``; a list if several images.

        In [0, 1], or in [-1, 1] if the result is signed.

        Args:
            selection (int, tuple, sequence of int or Word, optional): one token; a
                range ``(start, stop)``; several tokens or a word, whose attributions
                are summed. Negative positions count from the end. Default: None, the
                whole answer

        Raises:
            IndexError: the answer has no such token, or the range is empty.
            TypeError: a position is not an integer, or a range has not two ends.
        """
        if selection is None:
            return self.sequence_map
        return self._normalized(self.values_of(selection))

    def values_of(self, selection: Selection) -> Tensor:
        """The attributions of a part of the answer, ``(N,)``."""
        assert self.token_attr is not None
        values: Tensor = self.seq_attr
        if selection is not None:
            chosen = selected_tokens(selection, len(self.output_tokens))
            values = self.token_attr[chosen].sum(0)
        return values

    def pixel_map(self, selection: Selection = None, image: int = 0) -> Tensor:
        """A map on the pixels of an original image, interpolated bilinearly.

        Args:
            selection: as in :meth:`token_map_of`. Default: None, the whole answer
            image (int, optional): index of the image. Default: 0

        Returns:
            *Tensor* ``(H, W)``, float32, in [0, 1], or in [-1, 1] if the result is
            signed; zero where no image token covers the pixel (see ``unseen_pixels``).

        Raises:
            ValueError: the original image is not known.
            IndexError: there is no such token or image.
        """
        self.layout.check_image(image)
        if isinstance(self.layout, SegmentLayout):
            # Borders stay sharp, and segments that are smaller than a cell are kept.
            painted = self.layout.painted(self.values_of(selection), image)
            scaled: Tensor = self._scaled(painted.flatten()).view_as(painted)
            return scaled
        maps = self.token_map_of(selection)
        return self.on_pixels(maps if isinstance(maps, Tensor) else maps[image], image)

    def on_pixels(self, token_map: Tensor, image: int = 0) -> Tensor:
        """Paints one map ``(h, w)`` on the pixels of an image."""
        size = self.known_sizes()[image]
        painted = map_view(self.layout, image).render(token_map.flatten(), size)
        return painted * (self.layout.token_of_pixel(image) >= 0)

    def known_sizes(self) -> tuple[Size, ...]:
        """Height and width of each original image; raises ValueError if not known."""
        if self.layout.image_sizes is None or not self.layout.is_located:
            raise ValueError(
                "The original image is not known, because the input was made without "
                "it. Use ImagePromptInput(image, prompt, processor) as the input."
            )
        return self.layout.image_sizes

    def __repr__(self) -> str:
        shown = label(self.answer, _LONGEST_ANSWER)
        maps = [" x ".join(map(str, one.shape[-2:])) for one in self._all_maps()]
        return (
            f"{type(self).__name__}({self.method or 'unknown method'}: {shown!r}, "
            f"{len(self.output_tokens)} tokens, maps of {', '.join(maps)})"
        )

    def _all_maps(self) -> list[Tensor]:
        maps = self.sequence_map
        return [maps] if isinstance(maps, Tensor) else maps


def _one_or_all(maps: list[Tensor]) -> Maps:
    return maps[0] if len(maps) == 1 else maps
