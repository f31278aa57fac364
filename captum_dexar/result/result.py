"""The result type of all methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TYPE_CHECKING

from captum_dexar.maps.image_tokens import ImageTokenInput
from captum_dexar.result import coco, plots, serialization
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.result.page import page_of
from captum_dexar.result.regions import Region, regions_of, THRESHOLD
from captum_dexar.result.selection import WordChoice
from captum_dexar.visualization import Plot
from captum_dexar.visualization.page import frame_html, page_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


# Long because everything of a result is called on the result. Most lines are
# documentation; the work is done in other files.
class VLMAttributionResult(AnswerMaps):
    r"""Attributions of an answer's tokens to the image's tokens.

    A Captum ``LLMAttributionResult`` (Captum's plots work) that also has maps. All
    methods of :class:`VLMAttribution` return this type. Below, ``T`` is the number of
    the answer's tokens, ``N`` that of image tokens with a place, and ``h x w`` the
    map's grid: that of the image tokens or, if several views (tiles, a thumbnail) cover
    the image, the one on which they are composed. For a prompt with several images each
    map field is a list with one entry per image, on a common scale.

    Attributes:
        output_tokens (list of str): the answer's tokens as text, ``T``; empty for a
            token that ends within a character, which the next one completes
        target_ids (Tensor): their vocabulary ids, ``(T,)``, int64
        input_tokens (list of str): names of the image tokens, ``N``
        token_attr (Tensor): un-normalised attributions, ``(T, N)``, float32, one column
            per image token in key order; equation (5). Perturbation methods have one
            column per segment of the mask of an ``ImageMaskInput``
        seq_attr (Tensor): un-normalised attribution of the whole answer, ``(N,)``;
            equation (6) before its last normalisation
        placeless_attr (Tensor): attributions of image tokens without a place (a CLS
            token, a newline), ``(T, tokens without a place)``
        placeless_share (Tensor): their share of each token's attribution, ``(T,)``
        token_maps (Tensor): each token's map in [0, 1], ``(T, h, w)``; of a signed
            result in [-1, 1], where 0 is no attribution
        sequence_map (Tensor): the whole answer's map, ``(h, w)``, in the same range
        view_maps (list of Tensor): each view's own tokens, un-normalised, ``(T, rows,
            columns)`` of the view
        token_weights (Tensor or None): how much more the image supports each token than
            the text does, ``(T,)``; equation (6). Zero: no visual support. With
            ``rivals`` another quantity: the share of the heads' scores by which the
            image exceeds the text, from 0 to 1 and rarely 0
        token_log_probs (Tensor or None): the model's log-probabilities, ``(T,)``
        convergence_delta (Tensor or None): each step's delta, ``(T,)``, if requested
            with ``return_convergence_delta=True``
        head_weights (Tensor or None): equation (5), ``(T, layers, heads)``; zeros
            follow the heads of a layer that has fewer than others
        layer_attr (Tensor or None): each layer's part of ``token_attr``, ``(T, layers,
            N)``
        layer_maps (Tensor or None): the same as maps, un-normalised, ``(T, layers, h,
            w)``
        layer_indices (list of int or None): indices of these decoder layers; layers
            without attention are left out
        rival_ids (Tensor or None): with ``rivals=k``, the tokens that each token was
            contrasted with, the model's next choices, most likely first, ``(T, k)``,
            int64
        rival_tokens (list of list of str or None): the same as text
        layout (ImageLayout): views and boxes of the image tokens
        images (list of PIL.Image.Image): the original images; empty if not known
        image (PIL.Image.Image or None): the first image
        inp (ImageTokenInput or None): the images with a feature per image token, for
            Captum's plots. It refers neither to the explained input nor to the model,
            and can't create model inputs. None if the places are not known
        special_tokens (Tensor): which tokens of the answer are special (end of sequence
            ...), ``(T,)``, bool
        word_starts (Tensor): which tokens begin a word, ``(T,)``, bool
        answer (str): the answer as the tokenizer decodes it, without special tokens; of
            a token of a stream, the text that it adds. Without a tokenizer, the ids
        question (str or None): what the model was asked, the ``question`` of
            :class:`ImagePromptInput`; None if the input was another
        method (str): name of the attribution method, with the options of DEX-AR that
            are not the paper's
        verification (Verification or None): which token and layer
            ``attribute(..., verify=True)`` recomputed by plain autograd, and the
            relative ``error``. Neither saved nor compared

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> result = VLMAttribution(LayerDexAR(model), processor).attribute(inp)
        >>> result.token_maps.shape[1:]
        torch.Size([12, 12])
        >>> figure, axes = result.plot_tokens()
    """

    def plot_tokens(
        self,
        words: bool = True,
        show: bool = False,
        image: int = 0,
        fig: Figure | SubFigure | None = None,
        *,
        scale: Literal["shared", "word"] = "shared",
        max_words: int | None = None,
        legend: bool = True,
    ) -> Plot | None:
        """The image, then one panel per word with its map, text and weight.

        Colours show where: each map is scaled to its own largest value. On the shared
        scale, the opacity of a map and the bar below it show how much: the word's
        weight as a share of the largest, or, of methods without weights, the size of
        its attributions. A word of weight 0 is drawn without a map, and a word whose
        map is zero as "no visual evidence". Lines below say so in plain English.

        pyplot does not know the figure: save it, or pass ``show=True``. Notebooks show
        it at the end of a cell. Its text stays text in SVG and PDF files.

        Args:
            words (bool, optional): False draws one panel per token, special tokens
                included. Default: True
            show (bool, optional): shows the figure instead of returning it.
                Default: False
            image (int, optional): index of the image. Default: 0
            fig (Figure or SubFigure, optional): a figure to draw on, which is filled
                with the panels. Default: None, a new one
            scale (str, optional): ``"shared"``, or ``"word"``: every map is opaque, so
                that those of words of small weight, or none, can be seen.
                Default: ``"shared"``
            max_words (int, optional): draws only so many words, the strongest, in the
                answer's order. Default: None, all
            legend (bool, optional): draws the heading, and the lines that say how to
                read the figure. Default: True

        Returns:
            Figure and axes, the image's first; None if shown.

        Raises:
            ValueError: the original image is not known, the figure is too small, or
                ``scale`` or ``max_words`` is none of the above.
            TypeError: ``fig`` is no figure.
        """
        return plots.plot_tokens(
            self, words, show, image, fig, scale, max_words, legend
        )

    def plot_words(
        self,
        show: bool = False,
        image: int = 0,
        ax: Axes | None = None,
        fig: Figure | SubFigure | None = None,
        *,
        scale: Literal["shared", "word"] = "shared",
        max_words: int = 5,
        legend: bool = True,
    ) -> Plot | None:
        """The answer as running text tinted by weight, with the strongest words' maps.

        For long answers: the text shows which words rest on the image, and the maps
        below show on what. Words that the image does not support more than the text
        does have no tint and no map.

        Args:
            ax (Axes, optional): axes to draw the text on, without the image and maps;
                lines that do not fit are cut. Default: None
            max_words (int, optional): number of maps at most. Default: 5
            show, image, fig, scale, legend: as in :meth:`plot_tokens`

        Returns:
            Figure and axes: the text's, the image's and one per map; only the text's if
            ``ax`` is given; None if shown.

        Raises:
            ValueError: as :meth:`plot_tokens`, or both ``ax`` and ``fig`` are given.
            TypeError: ``ax`` is no single Axes, or ``fig`` no figure.
        """
        return plots.plot_words(self, show, image, ax, fig, scale, max_words, legend)

    def plot_sequence(
        self,
        show: bool = False,
        image: int = 0,
        ax: Axes | None = None,
        fig: Figure | SubFigure | None = None,
        *,
        legend: bool = True,
    ) -> Plot | None:
        """The image, and the map of the whole answer on it.

        Args:
            ax (Axes, optional): axes to draw the map on, without the image beside it
                and without a colour bar. Default: None
            show, image, fig, legend: as in :meth:`plot_tokens`

        Returns:
            Figure and the map's axes; None if shown.

        Raises:
            ValueError: as :meth:`plot_tokens`, or both ``ax`` and ``fig`` are given.
            TypeError: ``ax`` is no single Axes, or ``fig`` no figure.
        """
        return plots.plot_sequence(self, show, image, ax, fig, legend)

    def plot_layers(
        self,
        tokens: Sequence[int] | None = None,
        show: bool = False,
        fig: Figure | SubFigure | None = None,
        *,
        scale: Literal["shared", "word"] = "shared",
        max_words: int | None = None,
        legend: bool = True,
    ) -> Plot | None:
        """The contribution of each layer (columns) to each token (rows).

        The colours of a row go from zero to its largest value, or are diverging ones up
        to its largest absolute value if some values are negative.

        Args:
            tokens (sequence of int, optional): which tokens, by their positions.
                Default: all but special ones
            scale (str, optional): ``"shared"``: the smaller a row's largest value among
                all rows, the more transparent its maps; ``"word"``: all are opaque.
                Default: ``"shared"``
            max_words (int, optional): draws only so many tokens, the strongest.
                Default: None, all
            show, fig, legend: as in :meth:`plot_tokens`

        Returns:
            Figure and axes, ``(tokens, layers)``; None if shown.

        Raises:
            ValueError: as :meth:`plot_tokens`, there is no token to draw, or there are
                no layer maps: the method has none, or they were not kept.
            IndexError: the answer has no such token.
            TypeError: as :meth:`plot_tokens`, or a position is no integer.
        """
        return plots.plot_layers(self, tokens, show, fig, scale, max_words, legend)

    def plot_heads(
        self,
        word: WordChoice = None,
        show: bool = False,
        ax: Axes | None = None,
        fig: Figure | SubFigure | None = None,
        *,
        legend: bool = True,
    ) -> Plot | None:
        """The weights of attention heads: rows are layers, columns are heads.

        ``head_weights``, the head filter of equation (5): by how much more a head's
        gradient for the image exceeds that for the text. Of several tokens, the mean.
        Where layers differ in their number of heads, shorter rows end in zeros.

        Args:
            word (int, str, tuple, sequence of int or Word, optional): as in
                :meth:`regions`. Default: None, the whole answer
            ax (Axes, optional): axes to draw the table on, without a colour bar.
                Default: None
            show, fig, legend: as in :meth:`plot_tokens`

        Returns:
            Figure and the table's axes; None if shown.

        Raises:
            ValueError: there are no weights of heads: the method has none, or they were
                not kept; both ``ax`` and ``fig`` are given, or the figure is too small;
                or as :meth:`regions`.
            TypeError: as :meth:`regions`, ``ax`` is no single Axes, or ``fig`` no
                figure.
            IndexError: as :meth:`regions`.
        """
        return plots.plot_heads(self, word, show, ax, fig, legend)

    def regions(
        self, word: WordChoice = None, threshold: float = THRESHOLD, image: int = 0
    ) -> list[Region]:
        """The connected regions of a word's map on an original image.

        The pixels of :meth:`pixel_map` whose value is larger than the threshold, in
        connected parts. Of signed results also those whose value is less than minus the
        threshold, apart. A zero map has no region.

        Args:
            word (int, str, tuple, sequence of int or Word, optional): a word by its
                index in :meth:`words` or by its text, if it occurs once; or tokens by
                their positions, as in :meth:`pixel_map`: a range ``(start, stop)``, or
                a list. Default: None, the whole answer
            threshold (float, optional): in [0, 1), as a share of the map's scale.
                Default: 0.5
            image (int, optional): index of the image. Default: 0

        Returns:
            *list* of :class:`Region`, the largest share of the attribution first.

        Raises:
            ValueError: the original image is not known, no word or several words have
                this text, or the threshold is out of range.
            IndexError: there is no such word, token or image.
            TypeError: the index, position or threshold is not a number.

        Examples::

            >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
            >>> from captum_dexar.shapes import load_vlm, make_scene
            >>> model, processor = load_vlm()
            >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
            >>> dexar = VLMAttribution(LayerDexAR(model), processor)
            >>> result = dexar.attribute(inp, "a large orange ring")
            >>> region = result.regions("orange")[0]
            >>> region.box, f"{region.share:.0%}"
            ((5, 40, 39, 72), '53%')
        """
        return regions_of(self, word, threshold, image)

    def coco_regions(
        self,
        words: Sequence[WordChoice] | None = None,
        threshold: float = THRESHOLD,
        file_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Regions of words on all images, as a COCO data set.

        Each text is a category, and each region an annotation: ``bbox`` as x, y, width
        and height, ``segmentation`` in COCO's compressed run lengths, ``area``, and
        ``score``, the region's share of the word's attribution; besides, ``word`` (the
        index in :meth:`words`), ``tokens``, ``sign`` and ``weight``.

        Args:
            words (sequence, optional): words as in :meth:`regions`. Default: all
            threshold (float, optional): as in :meth:`regions`. Default: 0.5
            file_names (sequence of str, optional): a name for each image.
                Default: ``image0.png``, ``image1.png`` ...

        Returns:
            *dict* that ``json.dump`` can write.

        Raises:
            ValueError, IndexError, TypeError: as :meth:`regions`; or ``file_names`` has
                not one name per image.
        """
        return coco.coco_dataset(self, words, threshold, file_names)

    def save_regions(
        self,
        path: str | Path,
        words: Sequence[WordChoice] | None = None,
        threshold: float = THRESHOLD,
        file_names: Sequence[str] | None = None,
    ) -> None:
        """Writes :meth:`coco_regions` to a JSON file.

        Args:
            path (str or Path): the file; an existing one is replaced
            words, threshold, file_names: as in :meth:`coco_regions`

        Raises:
            OSError: the file can't be written.
            ValueError, IndexError, TypeError: as :meth:`coco_regions`.
        """
        coco.write_coco(
            Path(path), coco.coco_dataset(self, words, threshold, file_names)
        )

    def plot_image_heatmap(
        self,
        show: bool = False,
        target_token_pos: int | tuple[int, int] | None = None,
        border_width: int = 0,
        show_legends: bool = False,
    ) -> tuple[Figure, Axes] | None:
        """Captum's own heatmap, one cell per image token.

        Borders and legends, which need scipy, are off by default. Large images are
        downscaled.

        Args:
            show, target_token_pos, border_width, show_legends: as in Captum's
                ``LLMAttributionResult``
        """
        return plots.plot_image_heatmap(
            self, show, target_token_pos, border_width, show_legends
        )

    def plot_token_attr(self, show: bool = False) -> tuple[Figure, Axes] | None:
        """Captum's own table of ``token_attr``; see ``LLMAttributionResult``."""
        return plots.readable(super().plot_token_attr(), show)

    def plot_seq_attr(self, show: bool = False) -> tuple[Figure, Axes] | None:
        """Captum's own bars of ``seq_attr``; see ``LLMAttributionResult``."""
        return plots.readable(super().plot_seq_attr(), show)

    def to_html(self, prompt: str | None = None) -> str:
        """An interactive page, as one HTML file that needs neither Python nor network.

        The answer is a text whose words are tinted by their weights. Pointing at one
        shows its map on the image, with its weight, probability and layers; words can
        be kept and combined, by mouse, touch or keyboard. The same result gives the
        same page, also after :meth:`save` and :meth:`load`.

        Where the places of the image tokens on the image are not known, the page shows
        the grid of the map alone.

        Args:
            prompt (str, optional): the question, shown above the answer; an empty one
                is left out. Default: None, the result's own

        Returns:
            An HTML document in ASCII, so that it may be written in any encoding.

        Raises:
            ValueError: an attribution is not finite.

        Examples::

            >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
            >>> from captum_dexar.shapes import load_vlm, make_scene
            >>> model, processor = load_vlm()
            >>> inp = ImagePromptInput(make_scene(0).image, "What is it?", processor)
            >>> dexar = VLMAttribution(LayerDexAR(model), processor)
            >>> result = dexar.attribute(inp, target="a red cross")
            >>> html = result.to_html()
            >>> html[:15]
            '<!DOCTYPE html>'
        """
        return page_html(page_of({self.method: self}, prompt=prompt))

    def _repr_html_(self) -> str:
        """The page of :meth:`to_html` in a frame, for notebooks."""
        return frame_html(page_of({self.method: self}))

    def save(self, path: str | Path) -> None:
        """Writes the result to one file: safetensors with JSON metadata, no pickle.

        The file includes the images and the question, but neither the input nor the
        model.

        Args:
            path (str or Path): an existing file is replaced whole or not at all, and
                keeps its permissions; symbolic links are followed

        Raises:
            OSError: the file can't be written; an existing one is as before.
            ValueError: the result could not be read again: its images have more than
                2**28 pixels together, or its parts do not fit together.
        """
        serialization.write(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> VLMAttributionResult:
        """Reads a result; the model is not needed.

        The file may come from anybody: it is checked before anything is made of it, and
        what it can take in memory is bounded. It is read whole, and not needed later.

        Args:
            path (str or Path): a file written by :meth:`save`

        Returns:
            VLMAttributionResult equal to the saved one; its ``inp`` holds the image and
            its features, but can't create model inputs.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a result.
        """
        fields = serialization.read(Path(path))
        images, layout = fields["images"], fields["layout"]
        has_boxes = images and layout.is_located
        return cls(**fields, inp=ImageTokenInput(images, layout) if has_boxes else None)

    def __eq__(self, other: object) -> bool:
        """Compares every tensor, token and pixel, and the question, but not the
        inputs."""
        if not isinstance(other, VLMAttributionResult):
            return NotImplemented
        return serialization.same_content(self, other)

    __hash__ = None  # type: ignore[assignment]
