"""Perturbation as a protocol: what its lines hold, and on which families."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.baselines import LayerAttention, LayerRandomMap, LayerUniformMap
from captum_dexar.evaluation import ShapesDataset
from captum_dexar.evaluation.oracle import TrueMaskOracle
from captum_dexar.evaluation.protocols import Line, PerturbationProtocol
from captum_dexar.metrics import perturbation_curve, sufficiency
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.blocks import dark_image
from tests.helpers.plain_prompt_processors import florence2_processor
from tests.helpers.real_families import FAMILIES, prompt_of
from torch import nn

FRACTIONS = (0.0, 0.3, 0.6)
IDS: Any = {"sample": "7", "image": "7", "seed": 3}
WHOLE = "whole answer"


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[nn.Module, Any]:
    return load_vlm()


def _without_time(lines: Any) -> list[str]:
    return [replace(line, seconds=0.0).to_json() for line in lines]


def test_lines_hold_what_the_metrics_give(world: tuple[nn.Module, Any]) -> None:
    model, processor = world
    example: Any = next(iter(ShapesDataset([7], processor)))
    inp, target, regions = example
    arguments = {"attention_power": 0.5}
    methods: Any = {
        "read": (LayerDexAR(model), arguments),
        "attention": (LayerAttention(model), {}),
    }
    protocol = PerturbationProtocol(
        insertion=True, fractions=FRACTIONS, fill="blur", sufficient=0.2
    )
    lines = list(protocol.measure(methods, example, processor, **IDS))
    assert [line.method for line in lines] == ["read", "attention"]
    for line, (method, given) in zip(lines, methods.values()):
        explaining = VLMAttribution(method, processor)
        result = explaining.attribute(inp, target, **given)
        kinds: Any = [("removal", ""), ("insertion", " insertion")]
        for order in ("positive", "negative"):
            for mode, name in kinds:
                curve = perturbation_curve(
                    model,
                    inp,
                    result,
                    order=order,
                    mode=mode,
                    fractions=FRACTIONS,
                    fill="blur",
                    seed=3,
                )
                areas = line.values[WHOLE]
                for own, kind in ((curve.area, "AUC"), (curve.log_area, "log AUC")):
                    (found,) = areas[f"{order}{name} {kind}"]
                    assert found == pytest.approx(own, rel=1e-4, abs=1e-5)
                shown = line.details["curves"][f"{order}{name}"]
                assert shown["x"] == list(FRACTIONS)
                expected = curve.normalized.tolist()
                assert shown["y"] == pytest.approx(expected, rel=1e-4)
        colours = [
            sufficiency(model, inp, result, tokens, fraction=0.2, fill="blur", seed=3)
            for tokens, mask, *kind in regions
            if kind == ["colour"]
        ]
        kept = line.values["colour"]["log-prob kept"]
        assert kept == pytest.approx([one.kept for one in colours], abs=1e-4)
        by_nothing = line.values["colour"]["log-prob kept by nothing"]
        expected = [one.kept_by_nothing for one in colours]
        assert by_nothing == pytest.approx(expected, abs=1e-4)
        assert set(line.values) == {WHOLE, "colour", "shape"}
        assert (line.sample, line.image, line.degenerate) == ("7", "7", {})
        assert line.details["answer"] == result.answer and line.seconds > 0
        assert Line.from_json(line.to_json()) == line


def test_a_line_does_not_depend_on_other_methods(
    world: tuple[nn.Module, Any],
) -> None:
    """A run that is killed between two lines goes on with the rest, to the same."""
    model, processor = world
    inp = ImagePromptInput(make_scene(5).image, "Describe the image.", processor)
    regions = [([1], torch.from_numpy(make_scene(5).mask.copy()), "colour")]
    methods: Any = {
        "dexar": (LayerDexAR(model), {}),
        "random": (LayerRandomMap(model), {}),
        "attention": (LayerAttention(model), {}),
    }
    protocol = PerturbationProtocol(fractions=FRACTIONS, batch_size=4)
    for target in ("a red circle .", None):
        example: Any = (inp, target, regions)
        together = list(protocol.measure(methods, example, processor, **IDS))
        for place, name in enumerate(methods):
            alone = protocol.measure({name: methods[name]}, example, processor, **IDS)
            assert _without_time(alone) == _without_time([together[place]])
    other = {**IDS, "seed": 4}
    (line,) = protocol.measure({"r": methods["random"]}, example, processor, **other)
    assert line.values != together[1].values


def test_the_true_masks_are_a_method(world: tuple[nn.Module, Any]) -> None:
    """Of the whole answer all masks, of a word its own."""
    model, processor = world
    example: Any = next(iter(ShapesDataset([0], processor)))
    inp, target, regions = example
    oracle: Any = {"oracle": (TrueMaskOracle(model), {})}
    protocol = PerturbationProtocol(fractions=FRACTIONS)
    (line,) = protocol.measure(oracle, example, processor, **IDS)
    union = torch.from_numpy(make_scene(0).mask.copy()).float()
    curve = perturbation_curve(model, inp, union, target, fractions=FRACTIONS, seed=3)
    (area,) = line.values[WHOLE]["positive AUC"]
    assert area == pytest.approx(curve.area, rel=1e-4)
    (negative,) = line.values[WHOLE]["negative log AUC"]
    assert negative < 0.2 < 1 < line.values[WHOLE]["positive log AUC"][0]
    tokens, mask, _ = next(one for one in regions if one[1] is not None)
    kept = sufficiency(model, inp, mask.float(), tokens, target, seed=3).kept
    assert line.values["colour"]["log-prob kept"][0] == pytest.approx(kept, abs=1e-4)
    unmasked = [(tokens, None) for tokens, *_ in regions]
    (line,) = protocol.measure(oracle, (inp, target, unmasked), processor, **IDS)
    assert line.values == {} and line.details["curves"] == {}


def test_regions_of_the_models_own_answer(world: tuple[nn.Module, Any]) -> None:
    """They are made of the explained answer; without words, its map is measured."""
    model, processor = world
    scene = make_scene(2)
    inp = ImagePromptInput(scene.image, "Describe the image.", processor)
    seen: list[str] = []

    def regions(result: Any) -> Any:
        seen.append(result.answer)
        return [(None, scene.mask), ([4], scene.mask), ([0], None)]

    methods: Any = {
        "constant": (LayerUniformMap(model), {}),
        "attention": (LayerAttention(model), {}),
    }
    protocol = PerturbationProtocol(fractions=(0.0, 0.5))
    lines = list(protocol.measure(methods, (inp, None, regions), processor, **IDS))
    assert seen == [scene.caption]
    # The map of the answer and that of a word.
    assert [line.degenerate for line in lines] == [{"whole answer": 1, "": 1}, {}]
    assert [len(line.values[""]["log-prob kept"]) for line in lines] == [1, 1]
    protocol = PerturbationProtocol(fractions=(0.0, 0.5), sufficient=None)
    (line,) = protocol.measure(
        {"attention": methods["attention"]}, (inp, None, []), processor, **IDS
    )
    assert list(line.values) == [WHOLE]


@pytest.mark.parametrize(
    "name", ["paligemma", "florence2", "llava_next", "internvl", "qwen2_5_vl"]
)
@pytest.mark.parametrize("unit", ["token", "pixel"])
def test_families_end_to_end(name: str, unit: Any) -> None:
    model, processor = FAMILIES[name].build(), FAMILIES[name].processor()
    if name == "florence2":  # whose model has few positions
        processor = florence2_processor(32)
    prompt = prompt_of(processor, model)
    inp = ImagePromptInput(dark_image(48, 80), prompt, processor, model)
    mask = torch.zeros(48, 80, dtype=torch.bool)
    mask[10:30, 40:70] = True
    regions = [(None, mask), ([0, 1], mask, "things"), ([2], None)]
    methods: Any = {
        "dexar": (LayerDexAR(model), {}),
        "oracle": (TrueMaskOracle(model), {}),
    }
    protocol = PerturbationProtocol(fractions=FRACTIONS, unit=unit)
    example: Any = (inp, [40, 7, 61], regions)
    for line in protocol.measure(methods, example, processor, **IDS):
        assert set(line.values) == {WHOLE, "things"}
        for measures in line.values.values():
            for values in measures.values():
                assert len(values) == 1 and math.isfinite(values[0])
        assert line.details["curves"]["positive"]["y"][0] == 1.0
        assert line.details["curves"]["positive"]["y"][1] != 1.0


def test_what_the_protocol_is_made_with() -> None:
    described = PerturbationProtocol().description()
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == "perturbation" == PerturbationProtocol.name
    assert described["fractions"] == [k / 10 for k in range(10)]
    assert described["x_label"] == "share of the image's parts that is removed"
    others: list[Any] = [
        {"insertion": True},
        {"fractions": (0, 1)},
        {"fill": "blur"},
        {"fill": (1, 2, 3)},
        {"unit": "pixel"},
        {"sufficient": None},
        {"gen_args": {"max_new_tokens": 3}},
    ]
    for arguments in others:
        other = PerturbationProtocol(**arguments).description()
        assert json.loads(json.dumps(other)) == other != described
    with pytest.raises(ValueError, match="An image does not fit all images"):
        PerturbationProtocol(fill=dark_image(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sufficient must lie between 0 and 1"):
        PerturbationProtocol(sufficient=0.0)
    wrong_ones: list[Any] = [{"fill": "x"}, {"unit": "word"}, {"fractions": (1, 0)}]
    for wrong in wrong_ones:
        with pytest.raises(ValueError, match="fill|unit|fractions"):
            PerturbationProtocol(**wrong)
