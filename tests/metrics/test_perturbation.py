"""Perturbation curves against hand-computed cases and a literal implementation."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.baselines import LayerAttention, LayerRandomMap, LayerUniformMap
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.metrics import normalized_perplexity, perturbation_curve
from captum_dexar.metrics.fills import filling_pixels
from captum_dexar.metrics.image_parts import ImageParts
from captum_dexar.metrics.perturbation import PerturbationCurve
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image, ImageFilter
from tests.helpers.perturbed import (
    boxed,
    literal_log_probs,
    literal_order,
    literal_removed,
    mean_colour,
)
from tests.helpers.untouched import untouched
from torch import nn, Tensor

PROMPT = "Describe the image."
TARGET = "a red circle ."
KINDS = list(product(("positive", "negative"), ("removal", "insertion")))
FRACTIONS = (0.0, 0.15, 0.5, 1.0)


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[nn.Module, Any]:
    return load_vlm()


@pytest.fixture(name="inp", scope="module")
def _inp(world: tuple[nn.Module, Any]) -> ImagePromptInput:
    return ImagePromptInput(make_scene(0).image, PROMPT, world[1])


@pytest.fixture(name="result", scope="module")
def _result(world: tuple[nn.Module, Any], inp: ImagePromptInput) -> Any:
    model, processor = world
    return VLMAttribution(LayerAttention(model), processor).attribute(inp, TARGET)


def curve_of(*log_probs: Any, fractions: Any) -> PerturbationCurve:
    return PerturbationCurve(
        fractions=torch.tensor(fractions, dtype=torch.float64),
        log_probs=torch.tensor(log_probs, dtype=torch.float64),
        unperturbed_log_probs=torch.tensor(log_probs[0], dtype=torch.float64),
        tokens=tuple(range(len(log_probs[0]))),
        order="positive",
        mode="removal",
        is_degenerate=False,
    )


def test_perplexity_by_hand() -> None:
    """PPL 2 on the image; 4 and 2 sqrt(2) on others."""
    before = torch.tensor([0.5, 0.5]).log()
    after = torch.tensor([[0.25, 0.25], [0.5, 0.25]]).log()
    found = normalized_perplexity(after, before)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([2.0, math.sqrt(2)])
    assert normalized_perplexity(after[0], before).item() == pytest.approx(2.0)
    several = normalized_perplexity(after.expand(3, 2, 2), after.expand(3, 2, 2))
    assert torch.equal(several, torch.ones(3, 2, dtype=torch.float64))


def test_neither_perplexity_has_to_be_finite() -> None:
    before = torch.tensor([-2000.0, -3000.0])
    assert normalized_perplexity(before - 1, before).item() == pytest.approx(math.e)
    never = torch.tensor([-math.inf, -1.0])
    assert normalized_perplexity(never, torch.tensor([-1.0, -1.0])).item() == math.inf


def test_log_probabilities_that_have_no_perplexity() -> None:
    shapes: list[Any] = [((2, 3), (2,)), ((3,), (2, 3)), ((2, 0), (0,)), ((), ())]
    for after, before in shapes:
        with pytest.raises(ValueError, match="Expected log-prob|There is no token"):
            normalized_perplexity(torch.zeros(after), torch.zeros(before))
    for value, known in [(math.nan, -1.0), (-1.0, math.nan), (-1.0, -math.inf)]:
        with pytest.raises(ValueError, match="must not be NaN"):
            normalized_perplexity(torch.tensor([value]), torch.tensor([known]))


def test_the_areas_by_hand() -> None:
    """nPPL 1, 2 and 6 at 0, 0.5 and 0.6."""
    halves = [
        [-1.0, -2.0],
        [-1.0 - 2 * math.log(2), -2.0],
        [-1.0, -2 - 2 * math.log(6)],
    ]
    curve = curve_of(*halves, fractions=[0.0, 0.5, 0.6])
    assert curve.perplexity[0].item() == pytest.approx(math.exp(1.5))
    assert curve.normalized.tolist() == pytest.approx([1.0, 2.0, 6.0])
    assert curve.area == pytest.approx(0.5 * 1.5 + 0.1 * 4.0)
    log_area = 0.25 * math.log(2) + 0.05 * math.log(12)
    assert curve.log_area == pytest.approx(log_area)
    assert curve_of([-1.0], fractions=[0.3]).area == 0.0
    unchanged = curve_of(*10 * [[-1.0]], fractions=[k / 10 for k in range(10)])
    assert unchanged.area == pytest.approx(0.9) and unchanged.log_area == 0.0


@pytest.mark.parametrize(("order", "mode"), KINDS)
def test_a_second_implementation(
    world: tuple[nn.Module, Any],
    inp: ImagePromptInput,
    result: Any,
    order: Any,
    mode: Any,
) -> None:
    """Every image and every token by itself, in plain loops."""
    model, processor = world
    image = make_scene(0).image
    ranked = literal_order(result.seq_attr)
    colour = mean_colour(image)
    expected = []
    for fraction in FRACTIONS:
        gone = literal_removed(ranked, fraction, order, mode)
        boxes = [
            (8 * (k // 12), 8 * (k % 12), 8 * (k // 12) + 8, 8 * (k % 12) + 8)
            for k in gone
        ]
        changed = boxed(image, boxes, colour)
        made = processor(images=changed, text=inp.prompt, return_tensors="pt")
        expected.append(literal_log_probs(model, made, result.target_ids.tolist()))
    found = perturbation_curve(
        model, inp, result, order=order, mode=mode, fractions=FRACTIONS, batch_size=3
    )
    torch.testing.assert_close(
        found.log_probs, torch.tensor(expected).double(), rtol=0, atol=1e-5
    )
    unperturbed = found.unperturbed_log_probs
    assert (unperturbed - result.token_log_probs).abs().max() <= 1e-5
    perplexities = [math.exp(-sum(one) / len(one)) for one in expected]
    whole = perplexities[0 if mode == "removal" else -1]
    ratios = [one / whole for one in perplexities]
    assert found.normalized.tolist() == pytest.approx(ratios, rel=1e-5)
    steps = zip(FRACTIONS, FRACTIONS[1:], ratios, ratios[1:])
    area = sum((b - a) * (x + y) / 2 for a, b, x, y in steps)
    assert found.area == pytest.approx(area, rel=1e-5)
    assert not found.is_degenerate


def test_what_is_not_removed_first_is_inserted_last(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    """Inserting the first half in one order is removing it in the other. The order of
    equal values is turned round too."""
    heat = (4 * result.sequence_map).round()
    given: Any = (world[0], inp, heat, result.target_ids)
    fractions = (0.25, 0.5, 0.75)
    inserted = perturbation_curve(*given, mode="insertion", fractions=fractions)
    removed = perturbation_curve(*given, order="negative", fractions=fractions)
    torch.testing.assert_close(
        inserted.log_probs, removed.log_probs.flip(0), rtol=0, atol=1e-5
    )


def test_a_part_of_the_answer(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    """Its own map, and the log-probabilities of its own tokens."""
    model, _ = world
    whole = perturbation_curve(
        model, inp, result.token_maps[1], result.target_ids, fractions=(0, 0.3)
    )
    selections: list[Any] = [1, -3, [1], (1, 2)]
    for selection in selections:
        part = perturbation_curve(
            model, inp, result, selection=selection, fractions=(0, 0.3)
        )
        assert part.tokens == (1,)
        assert torch.equal(part.log_probs, whole.log_probs[:, [1]])
        assert torch.equal(part.unperturbed_log_probs, whole.log_probs[0, [1]])
    word = result.words()[2]
    two = perturbation_curve(model, inp, result, selection=word, fractions=(0.3,))
    assert two.tokens == word.tokens == (2,)
    pair = perturbation_curve(model, inp, result, selection=(1, 3), fractions=(0.3,))
    summed = result.token_attr[1:3].sum(0).view(12, 12)
    same = perturbation_curve(
        model, inp, summed, result.target_ids, selection=(1, 3), fractions=(0.3,)
    )
    assert pair.tokens == (1, 2) and torch.equal(pair.log_probs, same.log_probs)
    with pytest.raises(IndexError, match="4 tokens, got the selection 4"):
        perturbation_curve(model, inp, result, selection=4)


def test_the_scale_of_a_map_does_not_matter(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    """Signed maps are ranked by their signed value."""
    model, _ = world
    heat, ids = result.seq_attr.view(12, 12), result.target_ids
    expected = perturbation_curve(model, inp, result, fractions=(0.1, 0.4))
    for other in (1e6 * heat, 1e-6 * heat, heat.double() - heat.double().mean()):
        found = perturbation_curve(model, inp, other, ids, fractions=(0.1, 0.4))
        assert torch.equal(found.log_probs, expected.log_probs)
    turned = perturbation_curve(
        model, inp, -heat, ids, order="negative", fractions=(0.1, 0.4)
    )
    torch.testing.assert_close(turned.log_probs, expected.log_probs)


def test_a_map_of_pixels(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    """Its mean over each box ranks the boxes, and its own values the pixels."""
    model, _ = world
    heat, ids = result.sequence_map, result.target_ids
    large = heat.repeat_interleave(8, 0).repeat_interleave(8, 1)
    expected = perturbation_curve(model, inp, heat, ids, fractions=(0.1, 0.4))
    found = perturbation_curve(model, inp, large, ids, fractions=(0.1, 0.4))
    assert torch.equal(found.log_probs, expected.log_probs)
    # Half of the pixels of whole boxes are half of the boxes.
    whole = perturbation_curve(
        model, inp, large, ids, fractions=(0.5,), unit="pixel", batch_size=1
    )
    half = perturbation_curve(model, inp, heat, ids, fractions=(0.5,), batch_size=1)
    assert torch.equal(whole.log_probs, half.log_probs)
    smooth = perturbation_curve(model, inp, result, fractions=(0.3,), unit="pixel")
    own = perturbation_curve(
        model, inp, result.pixel_map(), ids, fractions=(0.3,), unit="pixel"
    )
    assert torch.equal(smooth.log_probs, own.log_probs)


def layout_of(size: tuple[int, int], *views: View) -> ImageLayout:
    num_tokens = sum(view.num_tokens for view in views)
    return ImageLayout(num_tokens, views, (size,))


def test_parts_by_hand() -> None:
    """A grid of 2 x 2 on the middle of the image; the rest is not seen."""
    view = View("full", (2, 2), (0.0, 1.0, 4.0, 5.0))
    parts = ImageParts.of(layout_of((4, 6), view))
    row = [[-1, 0, 0, 1, 1, -1]] * 2 + [[-1, 2, 2, 3, 3, -1]] * 2
    assert parts.labels[0].tolist() == row and parts.counts == (4,)
    values = parts.values([torch.tensor([[1.0, 4.0], [2.0, -3.0]])])
    ranking = parts.ranked(values)
    assert ranking.order.tolist() == [1, 2, 0, 3] and not ranking.is_degenerate
    gone = ranking.removed(0.5, "positive", "removal")
    assert gone.tolist() == [False, True, True, False]
    assert ranking.removed(0.2, "negative", "removal").tolist() == 3 * [False] + [True]
    shown = ~ranking.removed(0.25, "positive", "insertion")
    assert shown.tolist() == [False, True, False, False]
    pixels = parts.pixels(gone)[0].astype(int).tolist()
    assert pixels == [[0, 0, 0, 1, 1, 0]] * 2 + [[0, 1, 1, 0, 0, 0]] * 2
    by_pixel = ImageParts.of(parts.layout, "pixel")
    assert by_pixel.counts == (24,) and (by_pixel.labels[0] < 0).sum() == 8
    assert len(by_pixel.ranked(np.zeros(24)).order) == 16


def test_tokens_without_a_pixel_do_not_count() -> None:
    """Two columns of tokens lie on padding, and every second row between pixels."""
    view = View("full", (4, 4), (0.0, -2.0, 2.0, 2.0))
    parts = ImageParts.of(layout_of((2, 2), view))
    ranking = parts.ranked(np.arange(16.0))
    assert ranking.order.tolist() == [15, 14, 7, 6]
    assert ranking.removed(0.5, "positive", "removal").nonzero()[0].tolist() == [14, 15]


def test_several_views_have_the_cells_of_the_composed_map() -> None:
    views = (
        View("tile", (2, 2), (0.0, 0.0, 4.0, 4.0)),
        View("tile", (2, 2), (0.0, 4.0, 4.0, 8.0), start=4),
        View("global", (2, 2), (0.0, 0.0, 4.0, 8.0), start=8),
    )
    parts = ImageParts.of(layout_of((4, 8), *views))
    assert parts.counts == (8,)
    row = np.repeat(np.arange(4), 2)
    assert (parts.labels[0] == np.stack([row, row, row + 4, row + 4])).all()


def test_several_images_have_one_order() -> None:
    views = (
        View("full", (1, 2), (0.0, 0.0, 2.0, 4.0)),
        View("full", (1, 2), (0.0, 0.0, 1.0, 2.0), start=2, image=1),
    )
    parts = ImageParts.of(ImageLayout(4, views, ((2, 4), (1, 2))))
    values = parts.values([torch.tensor([[0.1, 0.9]]), torch.tensor([[0.5, 1.0]])])
    ranking = parts.ranked(values)
    assert ranking.order.tolist() == [3, 1, 2, 0]
    first, second = parts.pixels(ranking.removed(0.75, "positive", "removal"))
    assert first.tolist() == 2 * [[False, False, True, True]]
    assert second.tolist() == [[True, True]]


def test_a_larger_image_is_perturbed_in_the_same_places() -> None:
    view = View("full", (3, 4), (0.0, 0.0, 12.0, 16.0))
    layout = layout_of((12, 16), view)
    values = np.random.RandomState(0).rand(12)
    small, large = (ImageParts.of(one) for one in (layout, layout.resized(((36, 48),))))
    gone = small.ranked(values).removed(0.4, "positive", "removal")
    assert (large.ranked(values).removed(0.4, "positive", "removal") == gone).all()
    enlarged = np.kron(small.pixels(gone)[0], np.ones((3, 3), dtype=bool))
    assert (large.pixels(gone)[0] == enlarged).all()


def test_equal_values_are_taken_in_a_random_order_that_is_always_the_same() -> None:
    view = View("full", (10, 10), (0.0, 0.0, 10.0, 10.0))
    parts = ImageParts.of(layout_of((10, 10), view))
    values = np.zeros(100)
    values[37] = 1.0
    first, again = parts.ranked(values), parts.ranked(values)
    assert first.order[0] == 37 and (first.order == again.order).all()
    assert (np.diff(first.order[1:]) < 0).sum() > 30
    assert (parts.ranked(values, seed=1).order != first.order).any()
    assert sorted(first.order.tolist()) == list(range(100))
    assert not first.is_degenerate and parts.ranked(np.ones(100)).is_degenerate


def test_a_constant_map_is_chance_and_says_so(
    world: tuple[nn.Module, Any], inp: ImagePromptInput
) -> None:
    model, processor = world
    result = VLMAttribution(LayerUniformMap(model), processor).attribute(inp, TARGET)
    found = perturbation_curve(model, inp, result, fractions=(0.0, 0.5))
    assert found.is_degenerate and math.isfinite(found.area)
    noise = torch.tensor(np.random.RandomState(0).permutation(144)).view(12, 12)
    same = perturbation_curve(
        model, inp, -noise.double(), result.target_ids, fractions=(0.0, 0.5)
    )
    assert not same.is_degenerate and torch.equal(found.log_probs, same.log_probs)
    assert (found.order, found.mode) == ("positive", "removal")
    other = perturbation_curve(model, inp, result, fractions=(0.0, 0.5), seed=2)
    assert torch.equal(other.log_probs[0], found.log_probs[0])
    assert not torch.equal(other.log_probs[1], found.log_probs[1])


def test_chance_is_the_same_in_both_orders(world: tuple[nn.Module, Any]) -> None:
    """A random map and the map turned round are equally good; a good map is not."""
    model, processor = world
    differences: dict[str, list[float]] = {"random": [], "attention": []}
    for seed in range(6):
        scene = make_scene(seed)
        inp = ImagePromptInput(scene.image, PROMPT, processor)
        methods: dict[str, Any] = {
            "random": LayerRandomMap(model, seed=seed),
            "attention": LayerAttention(model),
        }
        for name, method in methods.items():
            own = VLMAttribution(method, processor).attribute(inp, scene.caption)
            positive, negative = (
                perturbation_curve(model, inp, own, order=order, fractions=(0.0, 0.3))
                for order in ("positive", "negative")
            )
            differences[name].append(positive.log_area - negative.log_area)
    means = {name: float(np.mean(one)) for name, one in differences.items()}
    errors = {name: float(np.std(one) / 6**0.5) for name, one in differences.items()}
    assert abs(means["random"]) < 3 * errors["random"]
    assert means["attention"] > 3 * errors["attention"] > 0


def test_what_removed_pixels_are_replaced_with() -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    (mean,) = filling_pixels([image], "mean")
    assert (mean == mean_colour(image)).all() and mean.shape == (4, 4, 3)
    (colour,) = filling_pixels([image], (1, 2, 255))
    assert (colour == [1, 2, 255]).all()
    large = image.resize((64, 32))
    (blurred,) = filling_pixels([large], "blur")
    assert (blurred == np.array(large.filter(ImageFilter.GaussianBlur(2)))).all()
    (given,) = filling_pixels([large], np.zeros((32, 64, 3)))
    assert (given == 0).all()
    both = filling_pixels([image, large], [image, large])
    assert (both[1] == np.array(large)).all()
    for fill, message in [
        ("median", "fill must be 'mean', 'blur'"),
        ((1, 2), "three numbers from 0 to 255"),
        ((1, 2, 256), "three numbers from 0 to 255"),
        (large, "must have the sizes of the originals"),
        ([image, image], "must have the sizes of the originals"),
    ]:
        with pytest.raises(ValueError, match=message):
            filling_pixels([image], fill)
    with pytest.raises(TypeError, match="must be a PIL image"):
        filling_pixels([image], None)


def test_the_fill_is_what_the_model_sees(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    """All of the image removed: the other image, which is explained."""
    model, processor = world
    other = make_scene(1).image
    replaced = perturbation_curve(model, inp, result, fractions=(1.0,), fill=other)
    shown = VLMAttribution(LayerUniformMap(model), processor).attribute(
        ImagePromptInput(other, PROMPT, processor), TARGET
    )
    torch.testing.assert_close(
        replaced.log_probs[0], shown.token_log_probs.double(), rtol=0, atol=1e-5
    )


def test_any_form_of_the_model_and_nothing_of_it_changes(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    model, processor = world
    forms: list[Any] = [
        model,
        VLMForward(model),
        VLMAttribution(LayerDexAR(model), processor),
    ]
    with untouched(model):
        found = [
            perturbation_curve(one, inp, result, fractions=(0.3,)) for one in forms
        ]
    assert len({tuple(one.log_probs.flatten().tolist()) for one in found}) == 1
    by_text = perturbation_curve(
        forms[2], inp, result.sequence_map, TARGET, fractions=(0.3,)
    )
    assert torch.equal(by_text.log_probs, found[0].log_probs)


def test_a_model_that_mixes_prompts_is_run_one_by_one(
    inp: ImagePromptInput, result: Any
) -> None:
    """What a hook does depends on the batch, which the original shows."""
    model, _ = load_vlm()

    def mix(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + 0.1 * (len(output) - 1) * torch.arange(output.shape[-1])

    expected = perturbation_curve(model, inp, result, fractions=(0.1, 0.4))
    with model.lm_head.register_forward_hook(mix):
        found = perturbation_curve(model, inp, result, fractions=(0.1, 0.4))
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-5)


def test_another_model_or_input_is_noticed(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    model, processor = world
    other = ImagePromptInput(make_scene(1).image, PROMPT, processor)
    for given in (other, ImagePromptInput(inp.image, "What is it?", processor)):
        with pytest.raises(
            ValueError, match="other log-probabilities than its explana"
        ):
            perturbation_curve(model, given, result)


def test_what_is_wrong_is_said(
    world: tuple[nn.Module, Any], inp: ImagePromptInput, result: Any
) -> None:
    model, _ = world
    heat = result.sequence_map
    wrong: list[tuple[Any, str]] = [
        ({"order": "up"}, "order must be one of 'positive', 'negative', got 'up'"),
        ({"mode": "up"}, "mode must be one of"),
        ({"unit": "word"}, "unit must be 'token' or 'pixel'"),
        ({"fractions": ()}, "ascending numbers from 0 to 1"),
        ({"fractions": (0.5, 0.5)}, "ascending numbers from 0 to 1"),
        ({"fractions": (0.5, 1.5)}, "ascending numbers from 0 to 1"),
        ({"fractions": (math.nan,)}, "ascending numbers from 0 to 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"target": TARGET}, "A result has its own answer"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            perturbation_curve(model, inp, result, **arguments)
    ids = result.target_ids
    for one, target, message in [
        (heat, None, "A map needs the answer"),
        (heat, TARGET, "needs a processor to tokenise"),
        (heat[:5], ids, r"on the pixels, \(96, 96\), or on the image tokens, \(12, 12"),
        ([heat, heat], ids, "a map for each of 1 images, got 2"),
        (heat * math.nan, ids, "NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            perturbation_curve(model, inp, one, target)
    with pytest.raises(TypeError, match="attribution must be a VLMAttributionResult"):
        perturbation_curve(model, inp, ["map"], ids)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="inp must be an ImagePromptInput"):
        perturbation_curve(model, dict(inp.to_model_input()), result)
