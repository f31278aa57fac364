"""Explains the same answer with several methods."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from captum.attr import Attribution, InterpretableInput
from captum_dexar.captum_methods import method_name
from captum_dexar.comparison.table import duration, markdown, rows_of
from captum_dexar.compatibility import add_note
from captum_dexar.decoding import generate
from captum_dexar.inputs import read_prompt, Target
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.state import check_model_state
from captum_dexar.result.canvas import Canvas
from captum_dexar.result.page import page_of
from captum_dexar.result.plots import caption_of, given_or_shown, parts_of
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.words import Word
from captum_dexar.visualization import check_figure, comparison_figure, MethodRow
from captum_dexar.visualization.page import frame_html, Page, page_html
from captum_dexar.vlm_attribution import VLMAttribution
from torch import Tensor
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Method: TypeAlias = Attribution | tuple[Attribution, Mapping[str, Any]]
# Errors whose message gets the method's name. What the user's own code may raise keeps
# its type, and gets a note.
_KINDS: tuple[type[Exception], ...] = (
    TypeError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same answer explained by several methods; see :func:`compare`.

    Attributes:
        results (dict): each method's :class:`VLMAttributionResult`, by name
        seconds (dict): wall time of the explanation without generation, by name

    Examples::

        >>> from captum.attr import Saliency
        >>> from captum_dexar import compare, ImagePromptInput, LayerDexAR, VLMForward
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "What is it?", processor)
        >>> methods = [LayerDexAR(model), Saliency(VLMForward(model))]
        >>> comparison = compare(methods, inp, "a red circle", processor)
        >>> figure, axes = comparison.plot()
        >>> axes.shape  # methods, words
        (2, 3)
        >>> print(comparison.table())
        | method | seconds | ...
    """

    results: dict[str, VLMAttributionResult]
    seconds: dict[str, float]

    def words(self) -> list[Word]:
        """The answer's words, with the first method's weights."""
        return self._first.words()

    def plot(
        self,
        words: bool | Sequence[int] = True,
        show: bool = False,
        image: int = 0,
        fig: Figure | SubFigure | None = None,
    ) -> tuple[Figure, Any] | None:
        """One figure: rows are methods, columns are words.

        Every map has its own scale, so methods with values of different magnitude can
        be compared: unsigned maps from 0 to 1, signed ones from -1 (blue) to 1 (red).
        Maps are not faded by a word's weight; the weight is written below them.

        Args:
            words (bool or sequence of int, optional): True draws all words, False all
                tokens; or positions in :meth:`words`. Default: True
            show, image, fig: as in :meth:`VLMAttributionResult.plot_tokens`

        Returns:
            Figure and the maps' axes, ``(methods, words)``; None if shown.

        Raises:
            ValueError: the original image is not known, or there is no word to draw.
            IndexError: the answer has no such word.
            TypeError: ``fig`` is no figure.
        """
        check_figure(fig)
        first = self._first
        all_parts = parts_of(first, words is not False)
        chosen = _chosen(len(all_parts), words)
        num_panels = len(self.results) * len(chosen)
        canvas = Canvas(first, image, num_panels)
        rows = []
        for name, result in self.results.items():
            parts = parts_of(result, words is not False)
            kept = [parts[position] for position in chosen]
            own = Canvas(result, image, num_panels)
            heats = [own.heat(part) for part in kept]
            rows.append(
                MethodRow(
                    name=name,
                    note=self._time_note(name),
                    heats=heats,
                    captions=[_caption(result, *both) for both in zip(kept, heats)],
                    signed=result.is_signed,
                )
            )
        figure, axes = comparison_figure(
            canvas.pixels,
            rows,
            [all_parts[position].text for position in chosen],
            canvas.unseen,
            first.answer,
            fig,
        )
        return given_or_shown(figure, axes, show)

    def to_html(self, prompt: str | None = None) -> str:
        """One interactive page with all methods side by side, which move together.

        The words are tinted by the first weights that a method has.

        Args:
            prompt: as in :meth:`VLMAttributionResult.to_html`

        Returns:
            An HTML document, as :meth:`VLMAttributionResult.to_html`.

        Raises:
            ValueError: an attribution is not finite, or the results are not of the same
                answer and images.
        """
        return page_html(self._page(prompt))

    def _repr_html_(self) -> str:
        """The page of :meth:`to_html` in a frame, for notebooks."""
        return frame_html(self._page())

    def _page(self, prompt: str | None = None) -> Page:
        notes = [duration(self.seconds[name]) for name in self.results]
        return page_of(self.results, notes, prompt)

    def rows(self) -> list[dict[str, Any]]:
        """The numbers of :meth:`table`, one row per method.

        ``seconds``; ``seconds_per_word``, without special tokens; ``times_the_first``,
        the time relative to the first method's; ``agreement``, the correlation of the
        words' maps with the first method's, averaged over words; ``negative_share``,
        for signed methods, the share of the absolute attribution that is negative;
        ``mean_weight``, the mean weight of the words, if the method has weights of
        equation (6). None for undefined numbers.
        """
        return rows_of(self.results, self.seconds)

    def table(self) -> str:
        """A Markdown table, one row per method; :meth:`rows` explains its columns."""
        return markdown(self.rows())

    @property
    def _first(self) -> VLMAttributionResult:
        return next(iter(self.results.values()))

    def _time_note(self, name: str) -> str:
        seconds = self.seconds[name]
        each = seconds / max(1, len(self.words()))
        return f"{duration(seconds)}\n{duration(each)} per word"


def compare(
    methods: Mapping[str, Method] | Sequence[Method],
    inp: InterpretableInput | Mapping[str, Any],
    target: Target = None,
    processor: Any = None,
    gen_args: Mapping[str, Any] | None = None,
    *,
    contrast: Target = None,
    grid: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
    repeats: int = 1,
    progress: bool = False,
) -> Comparison:
    r"""Explains the same answer with several methods.

    The answer is given, or generated once by the first method's model. Every method
    explains the same ids independently.

    Args:
        methods (Mapping or sequence): methods for :class:`VLMAttribution`, by name; or
            a sequence of them, which are named after themselves. A method may be a pair
            with arguments of its ``attribute``:
            ``(LayerDexAR(model), {"attention_power": 0.5})``
        processor (ProcessorMixin, optional): as in :class:`VLMAttribution`.
            Default: None
        inp, target, gen_args, contrast, grid, boxes: as in
            :meth:`VLMAttribution.attribute`, for a single input
        repeats (int, optional): number of runs per method; the shortest time and the
            first result are kept. Default: 1
        progress (bool, optional): shows a progress bar over the methods.
            Default: False

    Returns:
        Comparison

    Raises:
        TypeError: ``inp`` is a list of inputs.
        TypeError, ValueError, NotImplementedError, RuntimeError: as
            :meth:`VLMAttribution.attribute`; the message names the method that failed,
            and the other methods' results are lost. Errors of other types keep their
            type, and a note names the method.
        ValueError: there is no method, two have the same name, ``repeats`` is less than
            1, or ``gen_args`` is given together with a target.

    Examples::

        >>> from captum.attr import InputXGradient
        >>> from captum_dexar import compare, ImagePromptInput, LayerDexAR, VLMForward
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "What is it?", processor)
        >>> comparison = compare(
        ...     {
        ...         "DEX-AR": LayerDexAR(model),
        ...         "attention": (LayerDexAR(model), {"attention_power": 0.5}),
        ...         "input x gradient": InputXGradient(VLMForward(model)),
        ...     },
        ...     inp,
        ...     processor=processor,
        ... )
        >>> comparison.results["input x gradient"].is_signed
        True
        >>> sorted(comparison.seconds) == sorted(comparison.results)
        True
    """
    named = named_pairs(methods)
    if isinstance(inp, (list, tuple)):
        raise TypeError(
            f"compare explains one input, got a list of {len(inp)}. Call it once per "
            "input."
        )
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    if target is not None and gen_args is not None:
        raise ValueError(
            "gen_args are for generating an answer, but target gives one. Leave one of "
            "them out."
        )
    runs = [
        (name, _wrapped(name, method, processor), arguments)
        for name, (method, arguments) in named.items()
    ]
    if target is None:
        model = runs[0][1].model
        check_model_state(model)
        target = generate(read_prompt(inp, model, processor), gen_args).ids[0]
    results: dict[str, VLMAttributionResult] = {}
    seconds: dict[str, float] = {}
    with tqdm(
        total=len(runs) * repeats, desc="comparing", unit="run", disable=not progress
    ) as bar:
        for name, wrapped, arguments in runs:
            bar.set_postfix_str(name)
            for _ in range(repeats):
                start = time.perf_counter()
                try:
                    result = wrapped.attribute(
                        inp,
                        target,
                        contrast=contrast,
                        grid=grid,
                        boxes=boxes,
                        **arguments,
                    )
                except BaseException as error:
                    with_name = _named_error(name, error)
                    if with_name is not None:
                        raise with_name from error
                    add_note(error, _failure(name))
                    raise
                taken = time.perf_counter() - start
                seconds[name] = min(taken, seconds.get(name, taken))
                # Later methods explain the same ids, even if the target was a string.
                target = results.setdefault(name, result).target_ids
                bar.update()
    return Comparison(results, seconds)


def named_pairs(
    methods: Mapping[str, Method] | Sequence[Method],
) -> dict[str, tuple[Attribution, dict[str, Any]]]:
    """The methods of :func:`compare` with their arguments, by name."""
    given: Any = methods
    if not isinstance(given, (Mapping, list, tuple)):
        raise TypeError(
            "methods must be a mapping from names to methods, or a list of methods, "
            f"got {type(given).__name__}."
        )
    if isinstance(given, Mapping):
        pairs = [(str(name), *_with_arguments(one)) for name, one in given.items()]
    else:
        with_arguments = [_with_arguments(one) for one in given]
        pairs = [(_own_name(*one), *one) for one in with_arguments]
    if not pairs:
        raise ValueError("There is no method to compare: methods is empty.")
    named: dict[str, tuple[Attribution, dict[str, Any]]] = {}
    for name, method, arguments in pairs:
        if name in named:
            raise ValueError(
                f"Two methods are called {name!r}. Give a mapping with a name for each."
            )
        named[name] = (method, arguments)
    return named


def _with_arguments(method: Any) -> tuple[Attribution, dict[str, Any]]:
    if not isinstance(method, tuple):
        return method, {}
    if len(method) != 2 or not isinstance(method[1], Mapping):
        raise TypeError(
            "A method with arguments must be a pair (method, mapping), got a tuple of "
            f"{', '.join(type(part).__name__ for part in method)}."
        )
    return method[0], dict(method[1])


def _own_name(method: Any, arguments: Mapping[str, Any]) -> str:
    """A method's name with those of its arguments that are plain values."""
    if not isinstance(method, Attribution):
        return type(method).__name__
    plain = (bool, int, float, str, tuple)
    shown = [f"{k}={v}" for k, v in arguments.items() if isinstance(v, plain)]
    return method_name(method) + (f" ({', '.join(shown)})" if shown else "")


def _wrapped(name: str, method: Attribution, processor: Any) -> VLMAttribution:
    try:
        return VLMAttribution(method, processor)
    except (TypeError, AttributeError) as error:
        raise TypeError(f"{name} can't be compared: {error}") from error


def _named_error(name: str, error: BaseException) -> Exception | None:
    """An error of a documented type whose message names the method; None if the error
    is of another type."""
    # Captum asserts what it expects of arguments.
    is_ours = isinstance(error, (AssertionError, Inconsistent))
    for kind in _KINDS:
        if kind is (RuntimeError if is_ours else type(error)):
            return kind(f"{_failure(name)}: {error}")
    return None


def _failure(name: str) -> str:
    return f"{name} could not explain the answer"


def _chosen(count: int, words: bool | Sequence[int]) -> list[int]:
    chosen = list(range(count)) if isinstance(words, bool) else list(map(int, words))
    if not chosen:
        raise ValueError("There is no word to draw.")
    if any(not -count <= position < count for position in chosen):
        raise IndexError(f"The answer has {count} words, got {chosen}.")
    return chosen


def _caption(
    result: VLMAttributionResult, word: Word, heat: npt.NDArray[np.float32]
) -> str:
    """A word's weight, and a note if its map is constant, which is not an error."""
    parts = [caption_of(word)] if word.weight is not None else []
    if not bool(heat.any()):
        assert result.token_attr is not None
        is_zero = not bool(result.token_attr[list(word.tokens)].sum(0).any())
        parts.append("zero map" if is_zero else "constant map")
    return ", ".join(parts)
