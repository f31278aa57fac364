"""Localisation: the same numbers by hand, and the controls."""

from typing import Any

import pytest
import torch
from captum.attr import InputXGradient
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.baselines import LayerRandomMap, LayerUniformMap
from captum_dexar.evaluation import evaluate, LOCALIZATION, ShapesDataset
from captum_dexar.evaluation.function_words import FUNCTION_WORDS
from captum_dexar.evaluation.oracle import pooled_mask, TrueMaskOracle
from captum_dexar.evaluation.protocols import Line, LocalizationProtocol
from captum_dexar.evaluation.protocols.base import FILLER_ONLY
from captum_dexar.evaluation.protocols.localization import POINTING_TOLERANCE
from captum_dexar.inputs import ImagePromptInput
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.normalization import min_max_normalize
from captum_dexar.metrics import localization_chance
from captum_dexar.shapes import load_vlm
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]
World = tuple[Any, Any]
IDS: dict[str, Any] = {"sample": "s", "image": "i", "seed": 4}
KINDS = ("colour", "shape", "objects")


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    return load_vlm()


def measured(world: World, methods: Any, example: Any, **options: Any) -> list[Line]:
    protocol = LocalizationProtocol(**options)
    return list(protocol.measure(methods, example, world[1], **IDS))


def test_words_score_what_evaluate_says(world: World) -> None:
    model, processor = world
    methods: dict[str, Any] = {
        "DEX-AR": (LayerDexAR(model), {"attention_power": 0.5}),
        "signed": (InputXGradient(VLMForward(model)), {}),
        "random": (LayerRandomMap(model), {}),
    }
    dataset = ShapesDataset([3], processor, model)
    found = evaluate(methods, dataset, processor=processor, seed=4)
    lines = measured(world, methods, dataset[0])
    assert [line.method for line in lines] == list(methods)
    for line in lines:
        assert (line.sample, line.image, line.degenerate) == ("s", "i", {})
        assert line.seconds > 0 and line.details["answer"].startswith("the image shows")
        for kind in ("colour", "shape"):
            means = {
                name: torch.tensor(one, dtype=torch.float64).mean().item()
                for name, one in line.values[kind].items()
            }
            assert means == pytest.approx(found.means[line.method][kind], rel=1e-6)
        assert set(line.values) == {"colour", "shape"}
    assert "token_weights" not in lines[1].details


def test_the_whole_answer_has_its_control(world: World) -> None:
    """The map of the filler words alone, put together by hand."""
    model, processor = world
    inp, target, regions = ShapesDataset([3], processor, model, kinds=KINDS)[0]
    (line,) = measured(world, {"x": (LayerDexAR(model), {})}, (inp, target, regions))
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target)
    listed: Any = regions
    fillers = [tokens[0] for tokens, mask, *_ in listed if mask is None]
    (union,) = [mask for tokens, mask, *_ in listed if tokens is None]
    assert len(fillers) > 3
    assert set(line.values) == {"colour", "shape", "whole answer: objects", FILLER_ONLY}
    control = torch.zeros_like(result.seq_attr)
    for token in fillers:
        control += result.token_weights[token] * min_max_normalize(
            result.token_attr[token]
        )
    maps = {
        "whole answer: objects": result.pixel_map(),
        FILLER_ONLY: result.on_pixels(min_max_normalize(control).view(12, 12)),
    }
    for kind, heat in maps.items():
        for name, measure in LOCALIZATION.items():
            assert line.values[kind][name] == pytest.approx(
                [float(measure(heat, union))]
            )
    weights = line.details["token_weights"]
    assert weights["without"] == pytest.approx(result.token_weights[fillers].tolist())
    masked = [t[0] for t, mask, *_ in listed if mask is not None and t is not None]
    assert weights["with_mask"] == pytest.approx(result.token_weights[masked].tolist())


def test_function_words_are_the_control_of_unlabelled_answers(world: World) -> None:
    """A dataset that knows the answer's words not; regions as a function of it."""
    model, processor = world
    inp, target, regions = ShapesDataset([3], processor, model, kinds=KINDS)[0]
    whole = [region for region in regions if region[0] is None]
    methods: dict[str, Any] = {"x": (LayerDexAR(model), {})}
    (given,) = measured(world, methods, (inp, target, whole))
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target)
    fillers = [
        [token]
        for token, text in enumerate(result.output_tokens)
        if text in {"the", "a", "above", "of", "and", "."}
    ]
    assert {"the", "a"} <= FUNCTION_WORDS and "circle" not in FUNCTION_WORDS
    labelled = [*whole, *((tokens, None) for tokens in fillers)]
    (same,) = measured(world, methods, (inp, target, lambda result: labelled))
    assert given.values == same.values and FILLER_ONLY in given.values


def test_the_answer_is_generated_once(world: World) -> None:
    model, processor = world
    inp, _, _ = ShapesDataset([3], processor, model)[0]
    mask = torch.ones(96, 96, dtype=torch.bool)
    mask[0] = False
    asked = []

    def regions(result: Any) -> Any:
        asked.append(result.answer)
        return [([0], mask)]

    methods: dict[str, Any] = {name: (LayerUniformMap(model), {}) for name in "ab"}
    length = {"max_new_tokens": 4, "do_sample": False}
    lines = measured(world, methods, (inp, None, regions), gen_args=length)
    assert asked == ["the image shows a"]
    assert [line.details["answer"] for line in lines] == asked * 2
    protocol = LocalizationProtocol(gen_args=length)
    assert protocol.description()["gen_args"] == length


def test_chance_and_the_best_that_a_map_can_score(world: World) -> None:
    model, processor = world
    example = ShapesDataset([3], processor, model, kinds=KINDS)[0]
    methods: dict[str, Any] = {
        "uniform": (LayerUniformMap(model), {}),
        "oracle": (TrueMaskOracle(model), {}),
        "DEX-AR": (LayerDexAR(model), {}),
    }
    uniform, oracle, dexar = measured(world, methods, example)
    listed: Any = example[2]
    masks = [region[1] for region in listed if region[2:] == ("colour",)]
    for number, mask in enumerate(masks):
        chance = localization_chance(mask, POINTING_TOLERANCE)
        found = {name: one[number] for name, one in uniform.values["colour"].items()}
        assert found == {
            "pointing": chance["pointing_game"],
            "soft-IoU": chance["soft_iou"],
            "EPG": chance["energy_pointing_game"],
            "best IoU": chance["best_iou"],
            "SNR (dB)": 0,
        }
    assert uniform.degenerate == oracle.degenerate == {}
    assert FILLER_ONLY in uniform.values and FILLER_ONLY not in oracle.values
    for name in LOCALIZATION:
        pairs = zip(oracle.values["shape"][name], dexar.values["shape"][name])
        assert all(best >= one for best, one in pairs)
    # The oracle's map of a word is its mask, pooled to the 12 x 12 image tokens.
    pooled = torch.nn.functional.avg_pool2d(masks[0][None].float(), 8)[0]
    result = VLMAttribution(LayerUniformMap(model), processor).attribute(*example[:2])
    heat = result.on_pixels(min_max_normalize(pooled.flatten()).view(12, 12))
    measure = LOCALIZATION["soft-IoU"]
    best = oracle.values["colour"]["soft-IoU"][0]
    assert best == pytest.approx(measure(heat, masks[0]))


def test_constant_maps_are_counted(world: World) -> None:
    """Other measures than ours get the constant map of a uniform method."""
    model, processor = world
    example = ShapesDataset([3], processor, model)[0]

    class Constant(LayerUniformMap):
        pass

    methods: dict[str, Any] = {"x": (Constant(model), {})}
    (line,) = measured(world, methods, example, measures={"sum": lambda h, m: h.sum()})
    numbers = {kind: len(one["sum"]) for kind, one in line.values.items()}
    assert numbers == line.degenerate and sum(numbers.values()) > 2
    assert all(value == 0 for one in line.values.values() for value in one["sum"])


def literal_pooled(mask: Tensor, box: list[float]) -> float:
    """Pixel by pixel."""
    covered = area = 0.0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            height = max(0.0, min(box[2], y + 1) - max(box[0], y))
            width = max(0.0, min(box[3], x + 1) - max(box[1], x))
            area += height * width
            covered += height * width * float(mask[y, x])
    return covered / area if area else 0.0


def test_masks_are_pooled_box_by_box() -> None:
    """A view on padding, a tile of fractions of pixels, and another image's view."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(11, 7, generator=generator) < 0.4
    views = (
        View("padded", (3, 2), (-4.0, 0.0, 11.0, 7.0)),
        View("tile", (2, 3), (1.3, 2.1, 9.7, 6.4), start=6),
        View("beside", (1, 2), (11.0, 0.0, 15.0, 7.0), start=12),
        View("other", (1, 2), (0.0, 0.0, 5.0, 5.0), start=14, image=1),
    )
    layout = ImageLayout(16, views, ((11, 7), (5, 5)))
    expected = [literal_pooled(mask, box) for box in layout.boxes()[:12].tolist()]
    found = pooled_mask(mask, layout)
    assert found[:12].tolist() == pytest.approx(expected, abs=1e-6)
    assert found[12:].tolist() == [0, 0, 0, 0]
    assert pooled_mask(torch.ones(5, 5), layout, image=1)[14:].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"which is \(11, 7\), got \(7, 11\)"):
        pooled_mask(mask.T, layout)


def test_what_is_wrong_with_a_region_is_said(world: World) -> None:
    model, processor = world
    inp, target, _ = ShapesDataset([3], processor, model)[0]
    assert isinstance(inp, ImagePromptInput)
    for region, message in [
        (([99], None), "got a region of the tokens"),
        (([0], torch.zeros(96, 96)), "The mask is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            measured(world, {"x": (LayerDexAR(model), {})}, (inp, target, [region]))
