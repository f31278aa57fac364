"""Several methods on one answer: the same ids, one figure, one table."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, Saliency
from captum_dexar import (
    compare,
    Comparison,
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMForward,
)
from captum_dexar.baselines import LayerAttention, LayerUniformMap
from captum_dexar.comparison import METHODS, named_methods
from captum_dexar.comparison.methods import chosen_names, COMPARED, EVALUATED
from captum_dexar.model.target_logits import TargetLogits
from captum_dexar.shapes import load_vlm, make_scene
from captum_dexar.visualization import comparison_figure, MethodRow
from torch import nn, Tensor

PROMPT = "Describe the image."
TARGET = "the image shows a red circle ."

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already")


class Counting(LayerUniformMap):
    """Counts how often it was asked, and gives that as its map."""

    calls = 0

    def layer_attributions(
        self, steps: Any, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        self.calls += 1
        maps, logits, layers = super().layer_attributions(steps, cache, on_layer)
        return maps * self.calls, logits, layers


class Failing(LayerUniformMap):
    """Fails as Captum does for a user's mistake."""

    def layer_attributions(
        self, steps: Any, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        raise AssertionError("nothing works")


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[nn.Module, Any, ImagePromptInput]:
    model, processor = load_vlm()
    image = make_scene(0).image
    return model, processor, ImagePromptInput(image, PROMPT, processor, model)


@pytest.fixture(name="comparison", scope="module")
def _comparison(world: tuple[nn.Module, Any, ImagePromptInput]) -> Comparison:
    model, processor, inp = world
    methods = {
        "DEX-AR": LayerDexAR(model),
        "again": LayerDexAR(model),
        "signed": InputXGradient(VLMForward(model)),
        "chance": LayerUniformMap(model),
    }
    return compare(methods, inp, TARGET, processor)


def test_all_explain_the_answer_that_the_first_model_gives(world: Any) -> None:
    model, processor, inp = world
    methods = {"a": LayerDexAR(model), "b": Saliency(VLMForward(model))}
    comparison = compare(methods, inp, processor=processor)
    alone = VLMAttribution(LayerDexAR(model), processor).attribute(inp)
    assert list(comparison.results) == list(comparison.seconds) == ["a", "b"]
    for result in comparison.results.values():
        assert torch.equal(result.target_ids, alone.target_ids)
        assert result.output_tokens == alone.output_tokens
    same = VLMAttribution(methods["b"], processor).attribute(inp, alone.target_ids)
    assert comparison.results["b"] == same
    torch.testing.assert_close(
        comparison.results["a"].token_attr, alone.token_attr, rtol=1e-4, atol=1e-6
    )
    assert all(seconds > 0 for seconds in comparison.seconds.values())


def test_arguments_reach_generating_and_methods(world: Any) -> None:
    model, processor, inp = world
    gen_args = {"max_new_tokens": 3, "do_sample": False}
    methods = [
        LayerDexAR(model),
        (LayerDexAR(model), {"attention_power": 0.5}),
        LayerAttention(model),
    ]
    comparison = compare(methods, inp, processor=processor, gen_args=gen_args)
    plain, read, _ = comparison.results.values()
    assert len(plain.output_tokens) == 3
    name = LayerDexAR.get_name()
    assert list(comparison.results) == [
        name,
        f"{name} (attention_power=0.5)",
        LayerAttention.get_name(),
    ]
    own = VLMAttribution(LayerDexAR(model), processor).attribute(
        inp, target=plain.target_ids, attention_power=0.5
    )
    assert read == own


def test_a_contrast_reaches_every_method(world: Any) -> None:
    model, processor, inp = world
    methods = {"a": LayerDexAR(model), "b": InputXGradient(VLMForward(model))}
    comparison = compare(methods, inp, TARGET, processor, contrast=TARGET)
    for result in comparison.results.values():
        assert not result.token_attr.any()


def test_repeats_keep_the_first_result(world: Any) -> None:
    model, processor, inp = world
    method = Counting(model)
    comparison = compare({"x": method}, inp, TARGET, processor, repeats=3)
    assert method.calls == 3
    assert (comparison.results["x"].token_attr == 1).all()


class Raising(LayerUniformMap):
    """Raises what a user's own code may raise."""

    kind: type[BaseException] = Exception

    def layer_attributions(
        self, steps: Any, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        raise self.kind("nothing works")


class OwnError(ValueError):
    """A subclass of the user's."""


@pytest.mark.parametrize(
    "kind",
    [
        KeyboardInterrupt,
        KeyError,
        MemoryError,
        OwnError,
        StopIteration,
        SystemExit,
        torch.OutOfMemoryError,
    ],
)
def test_errors_keep_their_type(world: Any, kind: type[BaseException]) -> None:
    model, processor, inp = world
    raising = Raising(model)
    raising.kind = kind
    with pytest.raises(kind, match="nothing works") as raised:
        compare({"bad": raising}, inp, TARGET, processor)
    assert raised.type is kind
    assert "bad could not explain the answer" in vars(raised.value)["__notes__"]


def test_errors_name_the_method(world: Any) -> None:
    model, processor, inp = world
    fine = LayerDexAR(model)
    with pytest.raises(TypeError, match="odd could not explain.*no argument nonsense"):
        odd = (LayerDexAR(model), {"nonsense": 1})
        compare({"fine": fine, "odd": odd}, inp, TARGET, processor)
    with pytest.raises(RuntimeError, match="bad could not explain.*nothing works"):
        compare({"fine": fine, "bad": Failing(model)}, inp, TARGET, processor)
    with pytest.raises(ValueError, match="fine could not explain.*needs a processor"):
        compare({"fine": fine}, inp, TARGET)
    # Before anything is run.
    method = Counting(model)
    with pytest.raises(TypeError, match="wrong can't be compared: attr_method must be"):
        compare({"fine": method, "wrong": model}, inp, TARGET, processor)
    assert method.calls == 0


def test_bad_arguments(world: Any) -> None:
    model, processor, inp = world
    one = LayerDexAR(model)
    with pytest.raises(ValueError, match="no method to compare"):
        compare([], inp, TARGET, processor)
    with pytest.raises(ValueError, match="Two methods are called"):
        compare([one, LayerDexAR(model)], inp, TARGET, processor)
    with pytest.raises(TypeError, match="mapping from names to methods"):
        compare(one, inp, TARGET, processor)
    with pytest.raises(TypeError, match="must be a pair"):
        compare([(one, 0.5)], inp, TARGET, processor)
    with pytest.raises(TypeError, match="one input, got a list of 2"):
        targets: Any = [TARGET, TARGET]
        compare([one], [inp, inp], targets, processor)
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        compare([one], inp, TARGET, processor, repeats=0)
    with pytest.raises(ValueError, match="Leave one of them out"):
        compare([one], inp, TARGET, processor, gen_args={})


def test_rows_are_methods_and_columns_are_words(comparison: Comparison) -> None:
    figure, axes = comparison.plot()
    assert axes.shape == (4, 7)
    assert [axis.get_title() for axis in axes[0]] == TARGET.split()
    assert all(not axis.get_title() for axis in axes[1:].ravel())
    texts = [text.get_text() for text in figure.texts]
    assert all(name in texts for name in comparison.results)
    assert sum("per word" in text for text in texts) == 4
    # Two scales of colours, because one method is signed.
    assert _scales(figure) == [(-1, 1), (0, 1)]
    places = np.array([[a.get_position().p0 for a in row] for row in axes])
    assert np.ptp(places[..., 0], axis=0).max() < 1e-9
    assert np.ptp(places[..., 1], axis=1).max() < 1e-9
    assert axes[0, 0].get_xlabel().startswith("weight")
    assert axes[3, 0].get_xlabel() == "constant map"
    panels = [np.asarray(a.images[0].get_array()) for a in axes[:3, 4]]
    assert np.array_equal(panels[0], panels[1])
    assert not np.array_equal(panels[0], panels[2])
    plt.close(figure)


def test_chosen_words_and_tokens(comparison: Comparison) -> None:
    figure, axes = comparison.plot([4, -2])
    assert [axis.get_title() for axis in axes[0]] == ["red", "circle"]
    assert comparison.plot(words=False)[1].shape == (4, 7)
    with pytest.raises(IndexError, match="The answer has 7 words"):
        comparison.plot([7])
    with pytest.raises(ValueError, match="no word to draw"):
        comparison.plot([])
    plt.close("all")


def test_an_input_without_its_image_has_a_table_and_no_figure(world: Any) -> None:
    model, processor, inp = world
    made = dict(inp.to_model_input())
    comparison = compare({"x": LayerDexAR(model)}, made, TARGET, processor)
    assert comparison.table().count("\n") == 2
    with pytest.raises(ValueError, match="no image to draw on"):
        comparison.plot()


def test_an_unsigned_comparison_has_one_scale(comparison: Comparison) -> None:
    kept = {name: comparison.results[name] for name in ("DEX-AR", "chance")}
    figure, _ = Comparison(kept, comparison.seconds).plot()
    assert _scales(figure) == [(0, 1)]
    plt.close(figure)


def _scales(figure: Any) -> list[tuple[float, float]]:
    """Ends of the colour bars."""
    titles = ("share of the map's largest value", "lowers (blue), raises (red)")
    return sorted(a.get_xlim() for a in figure.axes if a.get_title() in titles)


@pytest.mark.parametrize("num_words", [1, 10])
def test_every_name_fits_beside_the_panels(num_words: int) -> None:
    heat = np.full((8, 8), 0.5)
    rows = [
        MethodRow(
            method.title,
            "12.3 s\n0.123 s per word",
            [heat] * num_words,
            [""] * 30,
            True,
        )
        for method in METHODS.values()
    ]
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    words = [f"word{index}" for index in range(num_words)]
    figure, axes = comparison_figure(image, rows, words, heat > 1, " ".join(words))
    assert axes.shape == (len(METHODS), num_words)
    figure.canvas.draw()
    whole = figure.bbox
    left = axes[0, 0].get_window_extent().x0
    names = {text.get_text().replace("\n", " "): text for text in figure.texts}
    for row in rows:
        assert names[row.name].get_window_extent().x1 < left
    for axis in axes.ravel():
        box = axis.get_window_extent()
        assert box.y0 > 0 and box.x1 < whole.x1
    # Panels of different rows and blocks do not lie on each other.
    corners = {tuple(np.round(a.get_window_extent().p0)) for a in axes.ravel()}
    assert len(corners) == axes.size
    plt.close(figure)


def test_the_table_says_what_was_measured(comparison: Comparison) -> None:
    rows = {row["method"]: row for row in comparison.rows()}
    assert rows["DEX-AR"]["times_the_first"] == 1
    assert rows["DEX-AR"]["agreement"] is None
    assert rows["again"]["agreement"] == pytest.approx(1)
    assert -1 < rows["signed"]["agreement"] < 1
    assert rows["chance"]["agreement"] is None
    assert 0 < rows["signed"]["negative_share"] < 1
    assert rows["again"]["negative_share"] is None
    weights = [word.weight for word in comparison.words()]
    assert rows["again"]["mean_weight"] == pytest.approx(sum(weights) / 7)
    assert rows["signed"]["mean_weight"] is None
    for name, row in rows.items():
        assert row["seconds"] == comparison.seconds[name]
        assert row["seconds_per_word"] == pytest.approx(row["seconds"] / 7)
    lines = comparison.table().splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 6
    assert lines[0].startswith("| method | seconds | seconds per word |")
    assert lines[4].startswith("| signed |") and lines[5].endswith("| - | - | - |")


def test_named_methods(world: Any) -> None:
    model = world[0]
    assert list(named_methods(["tam", "dexar"], model)) == [
        METHODS["tam"].title,
        METHODS["dexar"].title,
    ]
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    assert {*COMPARED, *EVALUATED} <= set(METHODS)
    assert chosen_names(["all"]) == list(METHODS)
    # Methods that are in a group as well count once, where they come first.
    chosen = chosen_names(["ig", "tam", "one-pass"])
    assert chosen[:2] == ["ig", "tam"] and set(chosen) == {"ig", *EVALUATED}
    assert chosen[2:] == [name for name in EVALUATED if name != "tam"]
    with pytest.raises(ValueError, match="no method is called x. There are: dexar, "):
        named_methods(["dexar", "x"], model)
    with pytest.raises(ValueError, match="ig is given more than once"):
        named_methods(["ig", "dexar", "ig"], model)
