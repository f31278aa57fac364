"""The result: words, pictures on the image, saving and loading."""

import ctypes
import gc
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import ImageMaskInput, visualization
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
)
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.methods import scoring
from captum_dexar.result.answer_maps import AnswerMaps
from captum_dexar.shapes import load_vlm
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

SIZE = (40, 60)  # height, width; the outer 10 columns are cropped away


def make_result(**changes: object) -> VLMAttributionResult:
    """Three words and an end token on a grid of 2 x 4 over a cropped image."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (*SIZE, 3), generator=generator, dtype=torch.uint8)
    view = View("full", (2, 4), (0.0, 10.0, 40.0, 50.0))
    token_attr = torch.rand(5, 8, generator=generator)
    token_attr[3] = 0
    fields: dict[str, Any] = {
        "output_tokens": ["a", "vio", "let", ".", "</s>"],
        "target_ids": torch.tensor([4, 17, 9, 5, 2]),
        "token_attr": token_attr,
        "seq_attr": token_attr.sum(0),
        "placeless_attr": torch.rand(5, 1, generator=generator),
        "token_weights": torch.tensor([0.5, 2.0, 1.0, 0.0, 0.0]),
        "token_log_probs": torch.tensor([-0.5, -1.0, -0.25, -0.1, -0.01]),
        "head_weights": torch.rand(5, 3, 2, generator=generator),
        "layer_attr": torch.rand(5, 3, 8, generator=generator),
        "layer_indices": [0, 1, 2],
        "special_tokens": torch.tensor([False, False, False, False, True]),
        "word_starts": torch.tensor([True, True, False, True, True]),
        "layout": ImageLayout(9, (View(*_start_at_one(view)),), (SIZE,)),
        "images": [Image.fromarray(pixels.numpy())],
        "method": "Layer DEX-AR",
    }
    return VLMAttributionResult(**{**fields, **changes})


def _start_at_one(view: View) -> tuple[Any, ...]:
    return view.name, view.grid, view.rectangle, 1


def test_words_merge_their_tokens() -> None:
    words = make_result().words()
    assert [word.text for word in words] == ["a", "violet", "."]
    assert words[1].tokens == (1, 2)
    assert words[1].weight == 2.0 and words[1].log_prob == -1.25
    assert [w.text for w in make_result().words(special=True)][-1] == "</s>"
    assert make_result().answer == "a violet ."


def test_maps_of_selections() -> None:
    result: Any = make_result()
    assert torch.equal(result.token_map_of(), result.sequence_map)
    assert torch.equal(result.token_map_of(1), result.token_maps[1])
    assert torch.equal(result.token_map_of(-2), result.token_maps[3])
    pair = result.token_map_of((1, 3))
    assert torch.equal(pair, result.token_map_of([1, 2]))
    assert torch.equal(pair, result.token_map_of(result.words()[1]))
    summed = result.token_attr[1] + result.token_attr[2]
    assert pair.flatten().argmax() == summed.argmax()
    for same in (np.int64(1), torch.tensor(1), np.array([1]), torch.tensor([1])):
        assert torch.equal(result.token_map_of(same), result.token_maps[1])
    assert torch.equal(result.token_map_of((-2, 4)), result.token_maps[3])
    for wrong in (5, -6, [0, 9], [], (2, 99), (-9, 2), (3, 3), (3, 1)):
        with pytest.raises(IndexError, match="The answer has 5 tokens"):
            result.token_map_of(wrong)
    for other in (True, [True, False], 1.0, "1", (1, None), (1, 2, 3)):
        with pytest.raises(TypeError, match="position|integer|range"):
            result.token_map_of(other)


@pytest.mark.parametrize("image", [-1, 1])
def test_images_are_counted_from_zero(image: int) -> None:
    result: Any = make_result()
    uses: list[Callable[[], Any]] = [
        lambda: result.pixel_map(0, image=image),
        lambda: result.plot_sequence(image=image),
        lambda: result.of_image(image),
    ]
    for use in uses:
        with pytest.raises(IndexError, match="The prompt has 1 image, counted from 0"):
            use()


def test_an_images_result_and_a_file_keep_what_is_not_of_places(tmp_path: Path) -> None:
    rivals: dict[str, Any] = {
        "rival_ids": torch.arange(10).view(5, 2),
        "rival_tokens": [["b", "c"]] * 5,
        "question": "what?",
    }
    result = make_result(**rivals)
    result.save(tmp_path / "a.dexar")
    of_places = {"token_attr", "placeless_attr", "layout", "inp", "seq_attr"}
    for other in (
        result.of_image(0),
        VLMAttributionResult.load(tmp_path / "a.dexar"),
    ):
        for name in inspect.signature(AnswerMaps.__init__).parameters:
            if name in {"self", "images", "layer_attr", *of_places}:
                continue
            kept, expected = getattr(other, name), getattr(result, name)
            if isinstance(expected, torch.Tensor):
                assert torch.equal(kept, expected), name
            else:
                assert kept == expected, name


def test_pixel_map_lies_on_the_seen_part_of_the_image() -> None:
    result: Any = make_result()
    heat = result.pixel_map(1)
    assert heat.shape == SIZE and heat.dtype == torch.float32
    unseen = result.unseen_pixels
    assert unseen[:, :10].all() and unseen[:, 50:].all() and not unseen[:, 10:50].any()
    assert not heat[unseen].any()
    assert 0 <= heat.min() and heat.max() <= 1
    # Values at the centres of the boxes are the map's own.
    centres = result.boxes.view(2, 4, 2, 2).mean(2)
    for row in range(2):
        for column in range(4):
            y, x = centres[row, column].long().tolist()
            around = heat[y - 1 : y + 1, x - 1 : x + 1].mean()
            assert around == pytest.approx(
                float(result.token_maps[1, row, column]), abs=0.1
            )


def test_a_zero_map_is_a_result() -> None:
    result = make_result()
    assert not result.token_maps[3].any() and not result.pixel_map(3).any()


def test_plots_have_a_panel_each() -> None:
    result = make_result()
    figure, axes = result.plot_tokens()
    titles = [axis.get_title() for axis in axes.ravel() if axis.get_visible()]
    assert titles == ["image", "a", "violet", "."]
    captions = [axis.get_xlabel() for axis in axes.ravel()[1:4]]
    assert captions == ["weight 0.5", "weight 2", "no visual evidence"]
    figure, axes = result.plot_tokens(words=False)
    assert [axis.get_title() for axis in axes.ravel()[1:6]] == result.output_tokens
    figure, axes = result.plot_layers()
    assert axes.shape == (4, 3)
    figure, axes = result.plot_layers(tokens=[2])
    assert axes.shape == (1, 3) and axes[0, 0].get_ylabel() == "let"
    figure, axis = result.plot_sequence()
    assert axis.get_title() == "whole answer"
    plt.close("all")


def make_signed_result() -> VLMAttributionResult:
    """As Captum's gradient methods give it: some tokens lower, one only raises."""
    token_attr = torch.rand(5, 8, generator=torch.Generator().manual_seed(2)) - 0.5
    token_attr[1] = token_attr[1].abs() + 0.25
    token_attr[3] = 0
    token_attr[0, 5] = 0
    seq_attr = scoring.sequence_attribution(token_attr, torch.ones(5)).float()
    fields = ("token_weights", "head_weights")
    return make_result(
        token_attr=token_attr,
        seq_attr=seq_attr,
        layer_attr=torch.stack([token_attr, -2 * token_attr], dim=1),
        layer_indices=[0, 1],
        **dict.fromkeys(fields),
    )


def test_signs_are_kept(tmp_path: Path) -> None:
    result: Any = make_signed_result()
    assert result.is_signed and not make_result().is_signed
    attr = result.token_attr.view(5, 2, 4)
    largest = attr.abs().amax((1, 2), keepdim=True)
    expected = attr / largest.masked_fill(largest == 0, 1.0)
    torch.testing.assert_close(result.token_maps, expected)
    assert result.token_maps[0].flatten()[5] == 0
    # A token that is only raised is not stretched down to zero beside the others.
    assert result.token_maps[1].min() > 0.2
    assert not result.token_maps[3].any()
    summed = expected.sum(0)
    torch.testing.assert_close(result.sequence_map, summed / summed.abs().max())
    heat = result.pixel_map(0)
    assert -1 <= heat.min() < 0 < heat.max() <= 1 and heat.abs().max() > 0.9
    result.save(tmp_path / "signed")
    loaded: Any = VLMAttributionResult.load(tmp_path / "signed")
    assert loaded == result and torch.equal(loaded.token_maps, result.token_maps)


@pytest.mark.parametrize("plot", ["plot_tokens", "plot_sequence", "plot_layers"])
def test_signed_maps_have_a_diverging_scale(plot: str) -> None:
    for result, limits in ((make_result(), (0, 1)), (make_signed_result(), (-1, 1))):
        figure, _ = getattr(result, plot)()
        assert figure.axes[-1].get_ylim() == limits
        plt.close(figure)


def test_red_raises_and_blue_lowers() -> None:
    result = make_signed_result()
    _, axes = result.plot_tokens()
    panel = np.asarray(axes.ravel()[1].images[0].get_array())
    heat = result.pixel_map(0).numpy()
    redness = panel[..., 0] - panel[..., 2]
    assert (redness[heat > 0.2] > 0).all() and (redness[heat < -0.2] < 0).all()
    seen = ~result.unseen_pixels.numpy()
    np.testing.assert_allclose(redness[(heat == 0) & seen], 0, atol=1e-9)
    _, axes = result.plot_layers(tokens=[0])
    first, second = (np.asarray(a.images[0].get_array()) for a in axes[0])
    strong = heat > 0.5
    assert (first[strong][:, 0] > first[strong][:, 2]).all()
    assert (second[strong][:, 0] < second[strong][:, 2]).all()
    plt.close("all")


def test_captums_plots_work() -> None:
    result = make_result()
    for position in (None, 1, (1, 3)):
        figure, axis = result.plot_image_heatmap(target_token_pos=position)
        drawn = axis.images[1].get_array()
        assert drawn.shape == SIZE and not drawn[:, :10].any()
    assert float(drawn[5, 15]) == pytest.approx(float(result.token_attr[1:3, 0].sum()))
    result.plot_seq_attr()
    result.plot_token_attr()
    heat = result.pixel_map(1).numpy()[..., None]
    visualization.visualize_image_attr(
        heat,
        np.asarray(result.image),
        method="blended_heat_map",
        sign="positive",
        use_pyplot=False,
    )
    plt.close("all")


def test_a_large_image_is_drawn_smaller_by_captum() -> None:
    view = View("full", (24, 24), (0.0, 0.0, 1500.0, 2000.0))
    result = make_result(
        layout=ImageLayout(576, (view,), ((1500, 2000),)),
        images=[Image.new("RGB", (2000, 1500))],
        token_attr=torch.rand(5, 576),
        seq_attr=torch.rand(576),
        placeless_attr=None,
        layer_attr=None,
    )
    _, axis = result.plot_image_heatmap(target_token_pos=0)
    assert max(axis.images[1].get_array().shape) <= 448
    plt.close("all")


def test_saved_and_loaded_is_equal(tmp_path: Path) -> None:
    result: Any = make_result()
    path = tmp_path / "answer.dexar"
    result.save(path)
    loaded: Any = VLMAttributionResult.load(path)
    assert loaded == result
    assert torch.equal(loaded.token_maps, result.token_maps)
    assert torch.equal(loaded.sequence_map, result.sequence_map)
    assert torch.equal(loaded.boxes, result.boxes)
    assert loaded.input_tokens == result.input_tokens
    assert [word.text for word in loaded.words()] == ["a", "violet", "."]
    assert loaded.inp.n_itp_features == 8
    loaded.plot_image_heatmap()
    plt.close("all")
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_numbers_are_saved_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    result = make_result(layer_attr=torch.rand(5, 3, 8).to(dtype))
    result.save(tmp_path / "x")
    loaded = VLMAttributionResult.load(tmp_path / "x")
    assert loaded == result
    assert loaded.layer_attr is not None and loaded.layer_attr.dtype is dtype


def test_saving_leaves_nothing_in_memory(tmp_path: Path) -> None:
    """Whatever the length of its picture's file."""
    sizes, types = set(), []
    for rows in range(0, 40, 8):
        pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        pixels[rows:] = 0
        make_result(images=[Image.fromarray(pixels)]).save(tmp_path / "x")
        sizes.add((tmp_path / "x").stat().st_size)
        gc.collect()
        types.append(len(ctypes.Array.__subclasses__()))
    assert len(sizes) == len(types) == 5
    assert types[-1] <= types[0]


def test_fields_that_a_method_does_not_have_stay_none(tmp_path: Path) -> None:
    names = ("token_weights", "token_log_probs", "head_weights", "layer_attr")
    result = make_result(**dict.fromkeys(names), layer_indices=None, images=[])
    result.save(tmp_path / "x")
    loaded = VLMAttributionResult.load(tmp_path / "x")
    assert loaded == result
    assert all(getattr(loaded, name) is None for name in names)
    with pytest.raises(ValueError, match="no image to draw on"):
        loaded.plot_tokens()
    with pytest.raises(ValueError, match="no maps of single layers"):
        loaded.plot_layers()


@pytest.mark.parametrize(
    "changes",
    [
        {"token_attr": torch.zeros(5, 8)},
        {"output_tokens": ["a", "vio", "let", "!", "</s>"]},
        {"token_weights": None},
        {"question": "why?"},
        {"images": [Image.new("RGB", (60, 40))]},
        {"layout": ImageLayout(9, (View("full", (2, 4), (0, 0, 40, 60), 1),), (SIZE,))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_difference_is_seen(changes: dict[str, object]) -> None:
    assert make_result() == make_result()
    assert make_result(**changes) != make_result()


def test_an_unknown_image_leaves_the_maps(tmp_path: Path) -> None:
    view = View("full", (2, 4), None, 1)
    result = make_result(layout=ImageLayout(9, (view,), None), images=[])
    assert result.boxes is None and result.token_maps.shape == (5, 2, 4)
    with pytest.raises(ValueError, match="original image is not known"):
        result.pixel_map()


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no result file"):
        VLMAttributionResult.load(tmp_path / "missing")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a result")
    with pytest.raises(ValueError, match="not a readable result file"):
        VLMAttributionResult.load(garbage)
    other = tmp_path / "other"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="not a result saved by"):
        VLMAttributionResult.load(other)
    make_result().save(tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "whole").read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a readable result file"):
        VLMAttributionResult.load(cut)


def test_the_format_of_files_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    make_result().save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["version"]) == ("captum_dexar.result", "2")


def test_a_transparent_image_is_shown_as_its_processor_sees_it() -> None:
    model, processor = load_vlm()
    levels = np.random.default_rng(0).integers(0, 256, (96, 96, 4), dtype=np.uint8)
    image = Image.fromarray(levels)
    known = ImagePromptInput(image, "Describe it.", processor, model)

    def process(image: Any) -> Any:
        return processor(images=image, text=known.prompt, return_tensors="pt")

    inp = ImageMaskInput(image, processor_fn=process)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, "a circle")
    (shown,) = result.images
    assert shown.tobytes() == known.image.tobytes()
    # Versions of transformers differ in what they make of transparent pixels.
    assert torch.equal(process(shown)["pixel_values"], process(image)["pixel_values"])
