"""Figures: their size, their texts, their colours, and on whose axes they are."""

import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.comparison.comparison import Comparison
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.result.canvas import Canvas
from captum_dexar.visualization.text import label, paragraph
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tests.result.test_result import make_result, make_signed_result

ODD = ["$5_0", r"$\frac{1", "a$b$c", "50%\\", "红色", "a\nb", "\x00", "x" * 300, " "]


def answer_of(tokens: list[str], **changes: Any) -> VLMAttributionResult:
    generator = torch.Generator().manual_seed(0)
    number = len(tokens)
    token_attr = torch.rand(number, 8, generator=generator)
    fields: dict[str, Any] = {
        "output_tokens": tokens,
        "answer": "".join(tokens),
        "target_ids": torch.arange(number),
        "token_attr": token_attr,
        "seq_attr": token_attr.sum(0),
        "layer_attr": torch.rand(number, 2, 8, generator=generator),
        "layer_indices": [0, 1],
        "token_weights": torch.rand(number, generator=generator),
    }
    fields["head_weights"] = torch.rand(number, 2, 3, generator=generator)
    unknown = ("placeless_attr", "token_log_probs")
    flags = ("special_tokens", "word_starts")
    fields |= dict.fromkeys((*unknown, *flags))
    return make_result(**{**fields, **changes})


def compared(result: VLMAttributionResult) -> Comparison:
    name = f"method {result.output_tokens[0]}"
    return Comparison(
        {name: result, "other": make_signed(result)}, {name: 1, "other": 2}
    )


def make_signed(result: VLMAttributionResult) -> VLMAttributionResult:
    assert result.token_attr is not None
    attr = result.token_attr - 0.5
    return answer_of(
        result.output_tokens,
        token_attr=attr,
        seq_attr=attr.sum(0),
        layout=result.layout,
        images=result.images,
    )


Plot = Callable[[VLMAttributionResult], Any]
OURS: dict[str, Plot] = {
    "tokens": lambda result: result.plot_tokens(words=False)[0],
    "words": lambda result: result.plot_words()[0],
    "sequence": lambda result: result.plot_sequence()[0],
    "layers": lambda result: result.plot_layers()[0],
    "heads": lambda result: result.plot_heads()[0],
    "comparison": lambda result: compared(result).plot(words=False)[0],
}
CAPTUMS: dict[str, Plot] = {
    "token_attr": lambda result: result.plot_token_attr()[0],
    "seq_attr": lambda result: result.plot_seq_attr()[0],
    "heatmap": lambda result: result.plot_image_heatmap()[0],
}
PLOTS = {**OURS, **CAPTUMS}
# Styles whose backgrounds differ; the others share theirs with one of them.
BACKGROUNDS = ("default", "dark_background", "classic", "Solarize_Light2")


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


def texts_of(figure: Figure) -> list[Text]:
    """The texts that are drawn."""
    hidden = {
        id(text)
        for axis in figure.axes
        if not axis.get_visible()
        for text in axis.findobj(Text)
    }
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text() and id(text) not in hidden
    ]


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_texts_are_shown_as_they_are(name: str) -> None:
    figure = PLOTS[name](answer_of(ODD))
    figure.canvas.draw()
    dollars = [text for text in texts_of(figure) if "$" in text.get_text()]
    assert bool(dollars) == (name not in ("seq_attr", "heatmap", "heads"))
    for text in dollars:
        # Mathematics is narrower: the dollar signs are gone.
        other = figure.text(0, 0, text.get_text().replace("$", "S"))
        other.update_from(text)
        other.set_rotation(0)
        text.set_rotation(0)
        widths = [t.get_window_extent().width for t in (text, other)]
        assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_titles_name_their_words() -> None:
    _, axes = answer_of(ODD).plot_tokens(words=False)
    titles = [axis.get_title() for axis in axes.ravel()[1:10]]
    expected = ["$5_0", r"$\frac{1", "a$b$c", "50%\\", "红色", "a↵b", r"\x00"]
    assert titles[:7] == expected and titles[8] == "␣"
    assert titles[7].startswith("xxxx") and titles[7].endswith("x…")


@pytest.mark.parametrize("text", ODD)
def test_a_label_is_one_line_of_visible_characters(text: str) -> None:
    for longest in (2, 5, 10):
        shown = label(text, longest)
        assert shown.strip() and "\n" not in shown and shown.isprintable()
        assert len(shown) <= longest
    assert label("红色的圆", 5) == "红色…"
    lines = paragraph("红" * 30, 20, 2).splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 10


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("tokens", [["red"], ODD, ["word"] * 12], ids=len)
def test_nothing_is_cut(name: str, tokens: list[str]) -> None:
    """A long token's neighbours apart, every text lies within the figure."""
    figure = OURS[name](answer_of(tokens))
    figure.canvas.draw()
    for text in texts_of(figure):
        if text.get_visible():
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text


def luminance(colour: Any) -> float:
    values = np.array(to_rgb(colour))
    linear = np.where(
        values <= 0.03928, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: Any, other: Any) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("style", ["default", *plt.style.available])
def test_text_is_readable_in_every_style(style: str) -> None:
    """The contrast that WCAG asks of text is 4.5."""
    result = answer_of(["red", "cat"], token_weights=torch.tensor([1.0, 0.0]))
    names = PLOTS if style in BACKGROUNDS else ("tokens", "token_attr")
    with plt.style.context(style):
        for name in names:
            figure = PLOTS[name](result)
            on_maps = {id(text) for axis in figure.axes for text in axis.texts}
            for text in texts_of(figure):
                if id(text) not in on_maps:
                    assert contrast(text.get_color(), figure.get_facecolor()) >= 4.5
            plt.close(figure)


def test_a_figure_may_be_given() -> None:
    result = make_result()
    before = plt.get_fignums()
    for background in ("black", "white"):
        figure = Figure(figsize=(12, 8), facecolor=background)
        (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False)
        assert result.plot_tokens(fig=upper)[0] is upper
        assert len(upper.axes) == 5 and not lower.axes
        assert result.plot_layers(fig=lower)[0] is lower
        for text in texts_of(upper) + texts_of(lower):
            assert contrast(text.get_color(), background) >= 4.5
        figure.canvas.draw()
    whole = Figure(figsize=(6, 4))
    assert result.plot_sequence(fig=whole)[0] is whole
    whole = Figure(figsize=(8, 6))
    assert result.plot_words(fig=whole)[0] is whole
    whole = Figure(figsize=(8, 6))
    assert result.plot_heads(fig=whole)[0] is whole
    whole = Figure(figsize=(8, 6))
    assert compared(result).plot(fig=whole)[0] is whole
    assert plt.get_fignums() == before
    small = Figure(figsize=(1, 1))
    with pytest.raises(ValueError, match="1 x 1 inches is too small for 1 rows of 4"):
        result.plot_tokens(fig=small)
    with pytest.raises(ValueError, match="too small for the weights of 3 layers x 2"):
        result.plot_heads(fig=small)


def test_axes_may_be_given() -> None:
    result = make_result()
    figure, (one, other) = plt.subplots(1, 2)
    drawn, axis = result.plot_sequence(ax=other)
    assert drawn is figure and axis is other and not one.images
    assert axis.get_title() == "a violet ." and len(figure.axes) == 2
    expected = result.plot_sequence()[1].images[0].get_array()
    assert np.array_equal(axis.images[0].get_array(), expected)
    assert plt.fignum_exists(figure.number)
    assert result.plot_heads(1, ax=one) == (figure, one)
    title = one.get_title().replace("\n", " ")
    assert title == "Heads that turn to the image for “violet”"
    for plot in (result.plot_sequence, result.plot_words, result.plot_heads):
        with pytest.raises(ValueError, match="ax and fig were both given"):
            plot(ax=other, fig=figure)
    figure, axis = plt.subplots(figsize=(2, 1))
    assert result.plot_words(ax=axis) == (figure, axis) and figure.axes == [axis]
    assert [text.get_text() for text in axis.texts] == ["a", "violet", "."]


def test_layers_are_drawn_of_tokens_by_their_positions() -> None:
    result: Any = make_result()
    expected = result.plot_layers(tokens=[4, 1])[1]
    for tokens in ((4, 1), [-1, -4], np.array([4, 1]), torch.tensor([4, 1])):
        drawn = result.plot_layers(tokens=tokens)[1]
        for axis, same in zip(drawn.flat, expected.flat):
            pictures = axis.images[0].get_array(), same.images[0].get_array()
            assert np.array_equal(*pictures) and axis.get_ylabel() == same.get_ylabel()
    with pytest.raises(ValueError, match="no token to draw: tokens is empty"):
        result.plot_layers(tokens=[])
    with pytest.raises(TypeError, match="positions of its tokens, got 'violet'"):
        result.plot_layers(tokens=["violet"])
    with pytest.raises(IndexError, match="The answer has 5 tokens"):
        result.plot_layers(tokens=[5])
    special = torch.ones(5, dtype=torch.bool)
    with pytest.raises(ValueError, match="the answer has special ones only"):
        make_result(special_tokens=special).plot_layers()


def test_other_places_than_axes_and_figures_are_refused() -> None:
    """Above all the arrays that pyplot.subplots returns."""
    result: Any = make_result()
    figure, axes = plt.subplots(1, 2)
    for plot in (result.plot_sequence, result.plot_words, result.plot_heads):
        with pytest.raises(TypeError, match=r"got ndarray. Pass one .* axes\[0\]"):
            plot(ax=axes)
        with pytest.raises(TypeError, match="ax must be .* got Figure. Pass fig for"):
            plot(ax=figure)
    comparison: Any = compared(result)
    every = (result.plot_tokens, result.plot_layers, comparison.plot)
    for plot in (*every, result.plot_sequence, result.plot_words, result.plot_heads):
        with pytest.raises(TypeError, match="got Axes. Its figure is ax.figure"):
            plot(fig=axes[0])
        with pytest.raises(TypeError, match="got int. Make one with"):
            plot(fig=3)
    assert not any(axis.images or axis.texts for axis in axes)


def test_text_that_does_not_fit_into_given_axes_is_cut() -> None:
    _, axis = plt.subplots(figsize=(2, 1))
    answer_of(["word"] * 200).plot_words(ax=axis)
    *words, last = axis.texts
    assert 3 <= len(words) < 30 and last.get_text() == "…"
    box = axis.get_window_extent()
    for text in axis.texts:
        extent = text.get_window_extent()
        assert box.y0 - 1 <= extent.y0 and extent.y1 <= box.y1 + 1


PHOTO = (3000, 4000)


def photo(words: int) -> VLMAttributionResult:
    views = (View("full", (2, 4), (0.0, 500.0, 3000.0, 3500.0), 1),)
    return answer_of(
        [f"word{index}" for index in range(words)],
        layout=ImageLayout(9, views, (PHOTO,)),
        images=[Image.linear_gradient("L").resize(PHOTO[::-1])],
    )


@pytest.mark.parametrize("name", [name for name in OURS if name != "heads"])
def test_a_photo_is_drawn_at_the_figures_resolution(name: str) -> None:
    """Forty maps of twelve megapixels would take gigabytes."""
    figure = OURS[name](photo(40 if name == "tokens" else 8))
    panels = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert sum(panel.nbytes for panel in panels) < 2**27
    assert max(max(panel.shape) for panel in panels) <= 1024
    assert min(panel.shape[1] for panel in panels) >= 128
    plt.close(figure)


def test_a_smaller_map_lies_where_the_large_one_does() -> None:
    result = photo(2)
    canvas = Canvas(result, 0, 40)
    step = PHOTO[0] / canvas.unseen.shape[0]
    rows, columns = (
        ((np.arange(side) + 0.5) * step).astype(int) for side in canvas.unseen.shape
    )
    large = result.pixel_map(1).numpy()[np.ix_(rows, columns)]
    unseen = result.unseen_pixels.numpy()[np.ix_(rows, columns)]
    # The edge of what is seen lies within a pixel of the small picture.
    assert (canvas.unseen == unseen).mean() > 0.99
    seen = ~(canvas.unseen | unseen)
    np.testing.assert_allclose(canvas.heat(1)[seen], large[seen], atol=0.01)
    assert canvas.unseen.any() and not canvas.heat(1)[canvas.unseen].any()


def test_styles_do_not_turn_pictures_over() -> None:
    result = make_signed_result()
    expected = result.plot_sequence()[1].get_ylim()
    with matplotlib.rc_context({"image.origin": "lower", "image.aspect": "auto"}):
        axis = result.plot_sequence()[1]
    assert axis.get_ylim() == expected and axis.get_aspect() == 1.0


def test_a_missing_glyph_is_a_warning_of_matplotlib() -> None:
    figure, _ = answer_of(["红色"]).plot_tokens()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.canvas.draw()
