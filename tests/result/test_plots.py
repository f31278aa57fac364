"""Plots: what they draw and say, and what they leave behind."""

import gc
import re
import time
import warnings
import weakref
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.result.word_strength import FAINTEST
from captum_dexar.visualization.overlay import Backdrop
from captum_dexar.visualization.text import label
from hypothesis import example, given, HealthCheck, settings, strategies
from matplotlib.figure import Figure
from PIL import Image
from tests.helpers import recording_backend
from tests.result.test_figures import answer_of, contrast, OURS, texts_of
from tests.result.test_result import make_result, make_signed_result

HOSTILE = [
    "<script>alert(1)</script>",
    "</text></svg>",
    "]]>&amp;\"'`",
    "$\\frac{1",
    "\x00\x1b[31m\x07",
    "\u202eevil\u202c",
    "שלום",
    "👩‍👩‍👧‍👦",
    "\ud800",
    "\ufffe\u2028",
    "\u200b",
    "e" + "\u0301" * 50,
    "x" * 10_000,
    "红" * 10_000,
]


def same_map_result(weights: list[float] | None) -> VLMAttributionResult:
    """Three words with the same map, times 1, 2 and 4."""
    one = torch.rand(1, 8, generator=torch.Generator().manual_seed(1))
    attr = one * torch.tensor([[1.0], [2.0], [4.0]])
    return make_result(
        output_tokens=["x", "y", "z"],
        target_ids=torch.arange(3),
        token_attr=attr,
        seq_attr=attr.sum(0),
        token_weights=None if weights is None else torch.tensor(weights),
        **dict.fromkeys(
            (
                "placeless_attr",
                "token_log_probs",
                "layer_attr",
                "layer_indices",
                "head_weights",
                "special_tokens",
                "word_starts",
            )
        ),
    )


def pictures(axes: Any) -> list[Any]:
    """The pictures of the panels that are drawn."""
    drawn = [axis for axis in np.ravel(axes) if axis.get_visible()]
    return [np.asarray(axis.images[0].get_array()) for axis in drawn]


def captions(axes: Any) -> list[str]:
    return [axis.get_xlabel() for axis in np.ravel(axes)[1:] if axis.get_visible()]


def words_of_figure(figure: Any) -> str:
    return " ".join(text.get_text() for text in texts_of(figure))


def backdrop_of(result: VLMAttributionResult) -> Backdrop:
    unseen = result.unseen_pixels.numpy()
    return Backdrop(np.asarray(result.image), unseen, result.is_signed)


def bars(axis: Any) -> list[float]:
    """Lengths of the bars below a panel: its track's and its own."""
    return [float(patch.get_width()) for patch in axis.patches]


def test_the_pictures_are_the_maps() -> None:
    for result in (make_result(), make_signed_result()):
        words, backdrop = result.words(), backdrop_of(result)
        drawn = pictures(result.plot_tokens(scale="word")[1])[1:]
        for word, picture in zip(words, drawn):
            expected = backdrop.overlay(result.pixel_map(word).numpy())
            np.testing.assert_allclose(picture, expected, atol=1e-6)
        (picture,) = pictures(result.plot_sequence()[1])
        expected = backdrop.overlay(result.pixel_map().numpy())
        np.testing.assert_allclose(picture, expected, atol=1e-6)
    result = make_result()
    attr = result.layer_attr[1]
    largest = attr.max()
    row = pictures(result.plot_layers(tokens=[1])[1])
    for layer, picture in zip(attr, row):
        heat = result.on_pixels((layer / largest).view(2, 4)).numpy()
        expected = backdrop_of(result).overlay(heat)
        np.testing.assert_allclose(picture, expected, atol=1e-6)


def test_on_the_shared_scale_maps_fade_with_the_weight() -> None:
    result = same_map_result([2.0, 1.0, 0.0])
    backdrop, heat = backdrop_of(result), result.pixel_map(0).numpy()
    _, axes = result.plot_tokens()
    opacities = (1.0, FAINTEST + (1 - FAINTEST) / 2, 0.0)
    for picture, opacity in zip(pictures(axes)[1:], opacities):
        expected = backdrop.overlay(heat, opacity)
        np.testing.assert_allclose(picture, expected, atol=1e-6)
    assert [bars(axis) for axis in axes[0, 1:]] == [[1, 1], [1, 0.5], [1, 0]]
    assert captions(axes) == ["weight 2", "weight 1", "weight 0 (not above text)"]
    _, axes = result.plot_tokens(scale="word")
    for picture in pictures(axes)[1:]:
        np.testing.assert_allclose(picture, backdrop.overlay(heat), atol=1e-6)
    assert captions(axes) == ["weight 2", "weight 1", "weight 0"]


def test_methods_without_weights_share_the_scale_of_their_values() -> None:
    result = same_map_result(None)
    _, axes = result.plot_tokens()
    shares = [bars(axis)[1] for axis in axes[0, 1:]]
    assert shares == pytest.approx([0.25, 0.5, 1.0])
    assert captions(axes) == ["25%", "50%", "100%"]
    _, axes = result.plot_tokens(scale="word")
    assert captions(axes) == ["", "", ""] and not axes[0, 1].patches


def test_layers_share_a_scale_or_each_row_has_its_own() -> None:
    layers = torch.rand(1, 2, 8, generator=torch.Generator().manual_seed(3))
    result = answer_of(["x", "y"], layer_attr=torch.cat([layers, layers / 4]))
    first, second = (pictures(row) for row in result.plot_layers()[1])
    heat = result.on_pixels((layers[0, 0] / layers.max()).view(2, 4)).numpy()
    faint = FAINTEST + (1 - FAINTEST) / 4
    for picture, opacity in ((first[0], 1.0), (second[0], faint)):
        expected = backdrop_of(result).overlay(heat, opacity)
        np.testing.assert_allclose(picture, expected, atol=1e-5)
    first, second = (pictures(row) for row in result.plot_layers(scale="word")[1])
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_zero_maps_are_no_visual_evidence() -> None:
    result = make_result()
    plain = backdrop_of(result).overlay(np.zeros((40, 60)))
    for scale in ("shared", "word"):
        figure, axes = result.plot_tokens(scale=scale)
        np.testing.assert_allclose(pictures(axes)[3], plain, atol=1e-6)
        assert captions(axes)[2] == "no visual evidence"
        assert "no place in the image stands out for the word" in words_of_figure(
            figure
        )
    zero = make_result(token_attr=torch.zeros(5, 8), seq_attr=torch.zeros(8))
    figure, axis = zero.plot_sequence()
    assert axis.get_title() == "whole answer: no visual evidence"
    np.testing.assert_allclose(pictures(axis)[0], plain, atol=1e-6)
    assert "supports no word more than the text" in words_of_figure(figure)
    _, axis = plt.subplots()
    zero.plot_sequence(ax=axis)
    plt.close("all")
    assert axis.get_xlabel() == "no visual evidence"
    figure, axes = zero.plot_words()
    assert len(axes) == 2 and not axes[0].patches
    assert "Maps none: no word is supported" in words_of_figure(figure)
    assert captions(zero.plot_tokens()[1]) == ["no visual evidence"] * 3


def test_weights_that_are_not_finite_are_drawn() -> None:
    result = same_map_result([torch.inf, torch.nan, 1.0])
    _, axes = result.plot_tokens()
    assert all(np.isfinite(picture).all() for picture in pictures(axes))
    assert [bars(axis)[1] for axis in axes[0, 1:]] == pytest.approx([1, 0, 0])


def test_the_figure_says_how_to_read_it() -> None:
    """What is said is what applies."""
    weight_0, stripes, signs = "Weight 0", "Stripes", "red places raise"
    evidence, method = "No visual evidence", "Layer DEX-AR"
    text = words_of_figure(make_result().plot_tokens()[0])
    assert all(term in text for term in ("Colour", "Opacity", stripes, evidence))
    assert method in text and signs not in text
    assert "how much more the image supports the word than the text" in text
    text = words_of_figure(same_map_result([2.0, 1.0, 0.0]).plot_tokens()[0])
    assert weight_0 in text and evidence not in text
    rivals: dict[str, Any] = {
        "rival_ids": torch.ones(5, 2).long(),
        "rival_tokens": [["b", "c"]] * 5,
    }
    text = words_of_figure(make_result(**rivals).plot_tokens()[0])
    other = "rather than the 2 tokens that the model would choose next"
    assert text.count(other) == 2 and "from 0 to 1" in text
    assert weight_0 not in words_of_figure(
        same_map_result([2.0, 1, 1]).plot_tokens()[0]
    )
    text = words_of_figure(same_map_result(None).plot_tokens()[0])
    assert weight_0 not in text and "100%" in text
    text = words_of_figure(make_signed_result().plot_tokens()[0])
    assert signs in text and "raises or lowers each word" in text
    whole = answer_of(
        ["x"],
        layout=ImageLayout(8, (View("full", (2, 4), (0, 0, 40, 60)),), ((40, 60),)),
    )
    assert stripes not in words_of_figure(whole.plot_tokens()[0])
    for name in ("tokens", "words", "sequence", "layers", "heads"):
        plot = getattr(make_result(), f"plot_{name}")
        assert method in words_of_figure(plot()[0])
        bare, _ = plot(legend=False)
        assert method not in words_of_figure(bare)
        assert bare.get_figheight() < plot()[0].get_figheight()


def test_only_the_strongest_words_are_drawn_in_the_answers_order() -> None:
    result: Any = answer_of(
        list("abcdef"), token_weights=torch.tensor([1.0, 5, 0, 3, 3, 4])
    )
    figure, axes = result.plot_tokens(max_words=3)
    titles = [axis.get_title() for axis in axes.ravel() if axis.get_visible()]
    assert titles == ["image", "b", "d", "f"]
    assert "the 3 strongest of 6" in words_of_figure(figure)
    figure, axes = result.plot_layers(max_words=2)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["b", "f"]
    assert "the 2 strongest of 6" in words_of_figure(figure)
    for plot in (result.plot_tokens, result.plot_layers):
        assert "strongest" not in words_of_figure(plot(max_words=6)[0])
    _, axes = result.plot_words(max_words=2)
    assert [axis.get_title() for axis in axes] == ["", "image", "b", "f"]
    # A word of weight 0 has no map below the text.
    assert len(result.plot_words(max_words=9)[1]) == 7
    for wrong in (0, -1, True):
        with pytest.raises(ValueError, match="max_words must be a positive number"):
            result.plot_tokens(max_words=wrong)
    for plot in (result.plot_tokens, result.plot_words, result.plot_layers):
        with pytest.raises(ValueError, match="scale must be 'shared' or 'word', got"):
            plot(scale="own")


def test_long_answers_have_rows() -> None:
    result = answer_of([f"word{index}" for index in range(40)])
    figure, axes = result.plot_tokens()
    assert axes.shape == (6, 8) and figure.get_figwidth() < 16
    figure, axes = result.plot_words()
    places = [text.get_position() for text in axes[0].texts]
    assert len(places) == 40 and len({y for _, y in places}) == 3
    # Read from left to right, line by line.
    assert [(y, x) for x, y in places] == sorted((y, x) for x, y in places)
    assert figure.get_figwidth() < 12


def test_words_are_tinted_by_weight_and_readable() -> None:
    for style in ("default", "dark_background"):
        with plt.style.context(style):
            result = answer_of(list("abcd"), token_weights=torch.tensor([4.0, 2, 1, 0]))
            figure, axes = result.plot_words()
            background = figure.get_facecolor()
            tints = [patch.get_facecolor() for patch in axes[0].patches]
            assert len(tints) == 3
            far = [np.abs(np.subtract(tint, background)).sum() for tint in tints]
            assert far[0] > far[1] > far[2] > 0
            for text, behind in zip(axes[0].texts, [*tints, background]):
                assert contrast(text.get_color(), behind) >= 4.5


def test_heads_are_the_mean_of_their_tokens() -> None:
    result = make_result()
    weights = result.head_weights
    for choice, tokens in (("violet", [1, 2]), (0, [0]), ([3], [3]), (None, range(5))):
        _, axis = result.plot_heads(choice)
        drawn = axis.images[0].get_array()
        np.testing.assert_allclose(drawn, weights[list(tokens)].double().mean(0))
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["0", "1", "2"]
    weights[:, 0, 1] = torch.nan
    figure, axis = make_result(
        head_weights=weights, layer_indices=[4, 6, 9]
    ).plot_heads()
    assert axis.images[0].get_array().mask.sum() == 1
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["4", "6", "9"]
    assert "no such head" in words_of_figure(figure)
    with pytest.raises(ValueError, match="no weights of single heads"):
        make_result(head_weights=None).plot_heads()
    with pytest.raises(IndexError, match="has 3 words"):
        result.plot_heads(7)


@pytest.mark.parametrize("name", [name for name in OURS if name != "comparison"])
def test_nothing_is_left_behind(name: str) -> None:
    """Neither an open figure, a setting, nor a reference that keeps the figure."""
    plt.close("all")
    theirs = plt.figure()
    before, settings_before = plt.get_fignums(), dict(matplotlib.rcParams)
    figure = OURS[name](make_result())
    figure.savefig(BytesIO(), format="svg")
    assert plt.get_fignums() == before and plt.gcf() is theirs
    assert dict(matplotlib.rcParams) == settings_before
    gone = weakref.ref(figure)
    del figure
    gc.collect()
    assert gone() is None
    plt.close("all")


def test_text_stays_text(tmp_path: Path) -> None:
    with matplotlib.rc_context({"svg.fonttype": "path", "pdf.fonttype": 3}):
        for name in ("tokens", "words", "sequence", "layers", "heads"):
            figure, _ = getattr(make_result(), f"plot_{name}")()
            figure.savefig(tmp_path / "x.svg")
            texts = texts_in(tmp_path / "x.svg")
            assert any("DEX-AR" in text for text in texts), name
        figure.savefig(tmp_path / "x.pdf")
        pdf = (tmp_path / "x.pdf").read_bytes()
        assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf
        assert matplotlib.rcParams["svg.fonttype"] == "path"


def texts_in(path: Path | BytesIO) -> list[str]:
    """The texts of an SVG file, which must be well-formed."""
    root = ElementTree.parse(path).getroot()
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "script" not in kinds
    return [
        "".join(element.itertext())
        for element in root.iter()
        if element.tag.endswith("}text")
    ]


@pytest.mark.parametrize("name", OURS)
def test_hostile_text_is_only_text(name: str, tmp_path: Path) -> None:
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|.*characters not supported")
        figure = OURS[name](answer_of(HOSTILE))
        for extension in ("png", "svg", "pdf"):
            figure.savefig(tmp_path / f"x.{extension}")
    assert time.process_time() - started < 60
    texts = texts_in(tmp_path / "x.svg")
    for text in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ufffe]", text)
    if name in ("tokens", "comparison"):
        assert any(text.startswith("<script>al") for text in texts)
    with Image.open(tmp_path / "x.png") as image:
        assert max(image.size) < 6000


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    strategies.lists(strategies.text(strategies.characters()), min_size=1, max_size=2)
)
@example([" 0", "\x850"])
def test_any_text_is_drawn_as_text(words: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|.*characters not supported")
        figure, axes = answer_of(words, layer_attr=None).plot_tokens(words=False)
        svg = BytesIO()
        figure.savefig(svg, format="svg")
    texts = texts_in(BytesIO(svg.getvalue()))
    titles = [axis.get_title() for axis in axes.ravel()[1:] if axis.get_visible()]
    assert len(titles) == len(words)
    for word, title in zip(words, titles):
        # Texts that are cut end with dots; the space before a token is left out.
        shown = label(word.strip() or word)
        assert shown.startswith(title.removesuffix("…"))
        assert title in texts or not title.strip()


def test_notebooks_show_the_figure_and_scripts_can() -> None:
    plot = make_result().plot_tokens()
    png = plot._repr_png_()
    with Image.open(BytesIO(png)) as image:
        expected = plot.figure.get_size_inches() * 80  # less than scripts get
        assert image.size == pytest.approx(tuple(expected), abs=1)
        file = BytesIO()
        plot.figure.savefig(file, dpi=80)
        saved = Image.open(file).convert("RGB")
        # Every pixel, in fewer bytes.
        assert image.mode == "RGB" and image.tobytes() == saved.tobytes()
        assert len(png) < 0.95 * len(file.getvalue())
    with plt.rc_context({"savefig.transparent": True}):
        clear = make_result().plot_tokens()._repr_png_()
    assert Image.open(BytesIO(clear)).getchannel("A").getextrema()[0] == 0
    figure, axes = plot
    assert plot == (figure, axes)
    # The owner of a figure shows it.
    assert make_result().plot_sequence(fig=Figure(figsize=(6, 4)))._repr_png_() is None


def test_show_shows_the_figure_and_leaves_none_open() -> None:
    before = matplotlib.get_backend()
    plt.close("all")
    plt.switch_backend(f"module://{recording_backend.__name__}")
    try:
        for name in ("tokens", "words", "sequence", "layers", "heads"):
            recording_backend.shown.clear()
            plot: Callable[..., Any] = getattr(make_result(), f"plot_{name}")
            assert plot(show=True) is None
            ((_, pixels),) = recording_backend.shown
            expected = BytesIO()
            plot()[0].savefig(expected, format="png")
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(expected)))
            assert plt.get_fignums() == []
        recording_backend.shown.clear()
        own = plt.figure(figsize=(8, 5))
        assert make_result().plot_sequence(show=True, fig=own) is None
        ((shown, _),) = recording_backend.shown
        assert shown is own and plt.get_fignums() == [own.number]
    finally:
        plt.close("all")
        plt.switch_backend(before)


def test_one_image_of_several_is_named() -> None:
    sizes = ((20, 20), (40, 40))
    views = tuple(
        View("full", (2, 2), (0.0, 0.0, float(side), float(side)), 4 * image, image)
        for image, (side, _) in enumerate(sizes)
    )
    result = answer_of(
        ["x", "y"],
        layout=ImageLayout(8, views, sizes),
        images=[Image.new("RGB", size) for size in sizes],
    )
    for image in (0, 1):
        title = f"image {image + 1} of 2"
        assert result.plot_tokens(image=image)[1][0, 0].get_title() == title
        assert result.plot_words(image=image)[1][1].get_title() == title
        assert title in words_of_figure(result.plot_sequence(image=image)[0])


@pytest.mark.parametrize("size", [(400, 20), (20, 400)])
def test_long_images_keep_their_aspect(size: tuple[int, int]) -> None:
    view = View("full", (2, 4), (0.0, 0.0, float(size[0]), float(size[1])))
    result = answer_of(
        ["x", "y", "z"],
        layout=ImageLayout(8, (view,), (size,)),
        images=[Image.new("RGB", size[::-1])],
    )
    for plot in (result.plot_tokens, result.plot_words):
        figure, axes = plot()
        assert max(figure.get_size_inches()) < 14
        figure.canvas.draw()
        box = np.ravel(axes)[-1].get_window_extent()
        assert box.height / box.width == pytest.approx(size[0] / size[1], rel=0.05)
