"""True effects: the same numbers by hand, controls, and datasets of one's own."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from captum.attr import InputXGradient
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.baselines import LayerAttention, LayerRandomMap, LayerUniformMap
from captum_dexar.evaluation import EvaluationDataset, RedrawnScenes, ShapesDataset
from captum_dexar.evaluation.oracle import (
    EffectsOracle,
    EffectsTokensOracle,
    TrueMaskOracle,
)
from captum_dexar.evaluation.protocols import EffectsProtocol, Line
from captum_dexar.evaluation.protocols.base import FILLER, FILLER_ONLY, WHOLE_ANSWER
from captum_dexar.evaluation.protocols.effects import WEIGHTS
from captum_dexar.maps.normalization import min_max_normalize
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image
from scipy.stats import pearsonr, rankdata, spearmanr
from tests.evaluation.datasets.models import model_and_processor
from tests.helpers.perturbed import literal_log_probs
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]
World = tuple[Any, Any]
KINDS = ("colour", "shape", "size", "relation")
# Scenes of one, two and three objects; and of two with similar effects on "left".
ONE, TWO, THREE, SIMILAR = 11, 1, 3, 6
MAPS = ("Spearman", "Pearson", "top-1", "overlap", "on largest")
MEANS = ("Spearman of means", "Pearson of means", "top-1 of means")


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    return load_vlm()


def scenes(world: World, *seeds: int) -> ShapesDataset:
    return ShapesDataset(seeds, world[1], world[0], kinds=KINDS)


def measured(
    world: World, methods: dict[str, Any], dataset: Any, index: int = 0, **options: Any
) -> list[Line]:
    pairs: Any = {
        name: one if isinstance(one, tuple) else (one, {})
        for name, one in methods.items()
    }
    sample = dataset.sample_id(index)
    ids: dict[str, Any] = {"sample": sample, "image": "i", "seed": 4}
    protocol = EffectsProtocol(dataset, **options)
    return list(protocol.measure(pairs, dataset[index], world[1], **ids))


def literal_effects(world: World, seed: int) -> tuple[Tensor, Tensor]:
    """Of each object, (objects, T), and of all, by a pass per token and image."""
    model, processor = world
    scene = make_scene(seed)
    inp = ImagePromptInput(scene.image, "Describe the image.", processor)
    ids = processor.tokenizer(scene.caption, add_special_tokens=False)["input_ids"]

    def log_probs(image: Image.Image) -> Tensor:
        made = processor(images=image, text=inp.prompt, return_tensors="pt")
        return torch.tensor(literal_log_probs(model, made, ids), dtype=torch.float64)

    before, every = log_probs(scene.image), range(len(scene.objects))
    single = [before - log_probs(scene.image_without(one)) for one in every]
    return torch.stack(single), before - log_probs(scene.image_without(*every))


def literal_levels(effects: Tensor) -> list[int]:
    """The rank of each effect; those that are negligible or similar share one."""
    truth = [float(one) if one >= 0.05 else 0.0 for one in effects]
    ordered, level = sorted(truth), 0
    levels = {ordered[0]: 0}
    for less, more in zip(ordered, ordered[1:]):
        level += more > less and more - less >= 0.1 * more
        levels[more] = level
    return [levels[one] for one in truth]


def literal_ranks(values: list[float], levels: list[int]) -> list[float]:
    """Ranks; those of one level get their mean."""
    ranks = [sorted(values).index(one) for one in values]
    own = [[r for r, x in zip(ranks, levels) if x == level] for level in levels]
    return [sum(one) / len(one) for one in own]


def literal_scores(
    heat: Tensor, masks: list[Tensor], effects: Tensor
) -> dict[str, Any]:
    """None where nothing can be told."""
    scores: dict[str, Any] = dict.fromkeys((*MAPS, *MEANS))
    truth = [float(one) if one >= 0.05 else 0.0 for one in effects]
    levels = literal_levels(effects)
    if not sum(truth):
        return scores
    heat = heat.double().clamp(min=0)
    if not heat.any():
        names = (*MAPS, *MEANS) if len(set(levels)) > 1 else ("overlap", "on largest")
        return scores | dict.fromkeys(names, 0.0)
    sums = [float(heat[mask].sum() / heat.sum()) for mask in masks]
    means = [float(heat[mask].mean() / heat.sum()) for mask in masks]
    share, total = sum(sums), sum(truth)
    largest = [s for s, level in zip(sums, levels) if level == max(levels)]
    scores["overlap"] = sum(min(s / share, t / total) for s, t in zip(sums, truth))
    scores["on largest"] = sum(largest)
    if len(set(levels)) == 1:
        return scores
    for values, suffix in ((sums, ""), (means, " of means")):
        assert len(set(values)) == len(values), "equal shares have no order"
        scores[f"Pearson{suffix}"] = pearsonr(values, truth).statistic
        first = values.index(max(values))
        scores[f"top-1{suffix}"] = float(levels[first] == max(levels))
        ranks = literal_ranks(values, levels)
        is_constant = len(set(ranks)) == 1
        found = 0.0 if is_constant else spearmanr(ranks, levels).statistic
        scores[f"Spearman{suffix}"] = found
    return scores


@pytest.mark.parametrize("seed", [TWO, THREE, SIMILAR])
def test_the_same_numbers_by_hand(world: World, seed: int) -> None:
    model, processor = world
    dataset, scene = scenes(world, seed), make_scene(seed)
    assert len(scene.objects) == (3 if seed == THREE else 2)
    methods: dict[str, Any] = {
        "DEX-AR": (LayerDexAR(model), {"attention_power": 0.5}),
        "signed": InputXGradient(VLMForward(model)),
    }
    lines = measured(world, methods, dataset)
    masks = [torch.from_numpy(one.mask.copy()) for one in scene.objects]
    single, of_all = literal_effects(world, seed)
    inp, target, _ = dataset[0]
    for line, (method, arguments) in zip(
        lines, (methods["DEX-AR"], (methods["signed"], {}))
    ):
        result = VLMAttribution(method, processor).attribute(inp, target, **arguments)
        expected: dict[str, list[dict[str, Any]]] = {}
        fillers = []
        for place, word in enumerate(scene.caption_words):
            kind = FILLER if word.kind == "filler" else word.kind
            heat = result.pixel_map(place)
            scores = literal_scores(heat, masks, single[:, place])
            expected.setdefault(kind, []).append(scores)
            if kind == FILLER:
                fillers.append(place)
        whole = single.sum(1)
        expected[WHOLE_ANSWER] = [literal_scores(result.pixel_map(), masks, whole)]
        weights = result.token_weights
        control = torch.zeros_like(result.seq_attr)
        for place in fillers:
            one = min_max_normalize(result.token_attr[place])
            control += one if weights is None else weights[place] * one
        if line.method == "DEX-AR":
            heat = result.on_pixels(min_max_normalize(control).view(12, 12))
            expected[FILLER_ONLY] = [literal_scores(heat, masks, whole)]
        for kind, words in expected.items():
            for name in (*MAPS, *MEANS):
                assert line.values[kind][name] == pytest.approx(
                    [one[name] for one in words], abs=2e-4
                ), (line.method, kind, name)
        zero = [] if control.any() or line.method == "signed" else [FILLER_ONLY]
        assert line.degenerate == dict.fromkeys(zero, 1)
    dexar, signed = lines
    told = [dexar.values[kind]["overlap"] for kind in ("colour", "shape")]
    assert None not in [*told[0], *told[1]]
    assert dexar.values[FILLER]["overlap"].count(None) >= 5
    if seed == SIMILAR:
        assert dexar.values["relation"]["Spearman"] == [None, None]
        assert dexar.values["relation"]["overlap"][0] > 0
    assert WEIGHTS not in signed.values and "token_weights" not in signed.details
    result = VLMAttribution(LayerDexAR(model), processor).attribute(
        inp, target, attention_power=0.5
    )
    weights = result.token_weights.tolist()
    large = [one >= math.log(2) for one in of_all.tolist()]
    found = dexar.details["token_weights"]
    # In the order of the words, which are tokens here.
    assert found["with_effect"] == pytest.approx(
        [one for one, is_large in zip(weights, large) if is_large]
    )
    assert found["without_effect"] == pytest.approx(
        [one for one, is_large in zip(weights, large) if not is_large]
    )
    assert 2 < sum(large) < len(large) - 2


def test_the_true_effects_themselves_score_1(world: World) -> None:
    model, _ = world
    dataset = scenes(world, TWO, THREE, SIMILAR, 7)
    oracles = {"exact": EffectsOracle(model), "tokens": EffectsTokensOracle(model)}
    informative = []
    for index in range(4):
        exact, tokens = measured(world, oracles, dataset, index)
        assert FILLER_ONLY not in exact.values and exact.degenerate == {}
        for kind, measures in exact.values.items():
            if kind == WEIGHTS:
                continue
            for name in (*MAPS[:4], *MEANS):
                for value in measures[name]:
                    assert value is None or value == pytest.approx(1, abs=1e-9)
            for fact, name in (("informative", "overlap"), ("ranked", "Spearman")):
                told = [float(one is not None) for one in measures[name]]
                assert measures[fact] == told
            informative += measures["informative"]
            # Neighbouring objects share an image token.
            for value in tokens.values[kind]["overlap"]:
                assert value is None or 0.8 < value <= 1
            assert "informative" not in tokens.values[kind]
        single, of_all = literal_effects(world, dataset.seeds[index])
        found = torch.tensor(exact.details["effects"], dtype=torch.float64)
        torch.testing.assert_close(found, single.T, rtol=1e-4, atol=1e-4)
        found = torch.tensor(exact.details["effects of all"], dtype=torch.float64)
        torch.testing.assert_close(found, of_all, rtol=1e-4, atol=1e-4)
        largest = single.sum(1).max()
        (said,) = exact.values[WHOLE_ANSWER]["largest effect (nats)"]
        assert said == pytest.approx(float(largest), rel=1e-4)
    assert 10 < sum(informative) < len(informative) - 10


def test_chance_and_areas_and_constant_maps(world: World) -> None:
    model, _ = world
    dataset = scenes(world, *range(30))

    class Constant(LayerUniformMap):
        pass

    methods = {
        "random": LayerRandomMap(model),
        "uniform": LayerUniformMap(model),
        "constant": Constant(model),
    }
    chance = []
    for index in range(30):
        random, uniform, constant = measured(world, methods, dataset, index)
        objects = make_scene(index).objects
        areas = [float(one.mask.sum()) for one in objects]
        for kind in KINDS:
            values = random.values.get(kind, {"Spearman": []})["Spearman"]
            chance += [one for one in values if one is not None]
            if kind not in uniform.values:
                continue
            overlaps = uniform.values[kind]["overlap"]
            told = [one for one in overlaps if one is not None]
            assert constant.degenerate.get(kind, 0) == len(told)
            for name in (*MAPS, *MEANS):
                assert {*constant.values[kind][name]} <= {0, None}
            of_means = uniform.values[kind]
            assert {*of_means["Spearman of means"]} <= {0, None}
            number = len(objects)
            parts = {part / number for part in range(1, number)}
            assert {*of_means["top-1 of means"]} <= {*parts, None}
            some = [combinations(areas, size + 1) for size in range(number)]
            possible = [pytest.approx(sum(one)) for sums in some for one in sums]
            for value in of_means["on largest"]:
                assert value is None or value * 96**2 in possible
        assert uniform.degenerate == {}
    assert len(chance) > 100
    # The words of a scene are not independent: a standard error of about 0.08.
    assert abs(sum(chance) / len(chance)) < 0.2


def test_the_true_mask_is_no_map_of_the_effects(world: World) -> None:
    """A word may depend on other objects than the one that it describes."""
    model, _ = world
    (line,) = measured(world, {"x": TrueMaskOracle(model)}, scenes(world, THREE))
    assert line.values["shape"]["top-1"] == [1, 1, 1]
    assert {*line.values[FILLER]["Spearman"]} == {None}, "they have no mask"
    assert FILLER_ONLY not in line.values
    effects = literal_effects(world, THREE)[0]
    words = make_scene(THREE).caption_words
    for place, word in enumerate(words):
        if word.kind != "colour":
            continue
        others = effects[:, place].clone()
        others[word.object_index] = 0
        if others.max() > 1:
            break
    else:
        pytest.fail("no colour of this scene depends on another object")


def test_scenes_of_one_object_tell_of_weights_only(world: World) -> None:
    model, processor = world
    dataset = scenes(world, ONE)
    assert len(make_scene(ONE).objects) == 1
    methods = {"DEX-AR": LayerDexAR(model), "attention": LayerAttention(model)}
    dexar, attention = measured(world, methods, dataset)
    assert list(dexar.values) == [WEIGHTS] and attention.values == {}
    inp, target, _ = dataset[0]
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target)
    (found,) = dexar.values[WEIGHTS]["Spearman"]
    _, of_all = literal_effects(world, ONE)
    weights = result.token_weights.tolist()
    kept = [float(one) if one >= 0.05 else 0.0 for one in of_all]
    ranks = rankdata(weights)
    own = [[r for r, x in zip(ranks, kept) if x == level] for level in kept]
    means = [sum(one) / len(one) for one in own]
    assert found == pytest.approx(spearmanr(means, kept).statistic)


class Counted(ShapesDataset):
    """Scenes that count how often they are drawn without an object."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.drawn: list[list[int]] = []

    def without(self, index: int, objects: Sequence[int]) -> Image.Image:
        """Counts."""
        self.drawn.append(list(objects))
        return super().without(index, objects)


def test_true_effects_are_measured_once(world: World) -> None:
    """And no line depends on other methods, or on how images share passes."""
    model, processor = world
    dataset = Counted([THREE], processor, model, kinds=KINDS)
    methods: dict[str, Any] = {
        "a": LayerAttention(model),
        "b": LayerRandomMap(model),
        "c": LayerDexAR(model),
    }
    together = measured(world, methods, dataset)
    assert dataset.drawn == [[0], [1], [2], [0, 1, 2]]
    for line in together:
        (alone,) = measured(
            world, {line.method: methods[line.method]}, dataset, batch_size=1
        )
        assert alone.values.keys() == line.values.keys()
        for kind, measures in line.values.items():
            for name, values in measures.items():
                assert alone.values[kind][name] == pytest.approx(values, abs=1e-4)


def test_the_models_own_answer(world: World) -> None:
    """Its words are those of the regions or, without any, all."""
    model, processor = world
    inp, target, regions = scenes(world, THREE)[0]
    asked = []

    def own_regions(result: Any) -> Any:
        asked.append(result.answer)
        return regions

    class Own(ShapesDataset):
        given: Any = staticmethod(own_regions)

        def __getitem__(self, index: int) -> Any:
            return inp, None, self.given

    dataset = Own([THREE], processor, model)
    methods: dict[str, Any] = {"x": LayerDexAR(model), "y": LayerAttention(model)}
    own = measured(world, methods, dataset)
    caption = make_scene(THREE).caption
    assert asked == [caption], "the model is right here"
    given = measured(world, methods, scenes(world, THREE))
    for one, other in zip(own, given):
        # The whole answer has the token that ends it, too.
        for kind in (*KINDS[:3], FILLER):
            for name, values in other.values[kind].items():
                assert one.values[kind][name] == pytest.approx(values, abs=1e-4)
    Own.given = ()
    line, _ = measured(world, methods, dataset)
    assert set(line.values) == {"", FILLER, WHOLE_ANSWER, FILLER_ONLY, WEIGHTS}
    number = sum(len(line.values[kind]["Spearman"]) for kind in ("", FILLER))
    assert number == len(caption.split())
    short = {"max_new_tokens": 4, "do_sample": False}
    line, _ = measured(world, methods, dataset, gen_args=short)
    assert line.details["answer"] == "the image shows a"
    assert EffectsProtocol(dataset, gen_args=short).description()["gen_args"] == short


class Names(ShapesDataset):
    """Colour and shape together are one word, of two tokens."""

    def __getitem__(self, index: int) -> Any:
        inp, target, regions = super().__getitem__(index)
        listed: Any = regions
        masked = [one for one in listed if one[1] is not None]
        pairs = zip(masked[::2], masked[1::2])
        return inp, target, [([*a[0], *b[0]], a[1], "name") for a, b in pairs]


@pytest.mark.parametrize("name", ["paligemma", "florence2"])
def test_words_of_several_tokens_in_other_families(name: str) -> None:
    """A random model; a word's effect is the sum over its tokens."""
    model, processor = model_and_processor(name)
    dataset = Names([TWO], processor, model)
    inp, target, regions = dataset[0]
    methods = {"exact": EffectsOracle(model), "attention": LayerAttention(model)}
    exact, attention = measured((model, processor), methods, dataset, negligible=0.0)
    scene = make_scene(TWO)

    def log_probs(image: Image.Image) -> Tensor:
        made = processor(images=image, text=inp.prompt, return_tensors="pt")
        return torch.tensor(literal_log_probs(model, made, target))

    before = log_probs(scene.image)
    for place in (0, 1):
        lost = before - log_probs(scene.image_without(place))
        expected = [float(lost[tokens].sum()) for tokens, *_ in regions]
        assert len(expected) == 2 and all(len(tokens) == 2 for tokens, *_ in regions)
        found = [one[place] for one in exact.details["effects"]]
        assert found == pytest.approx(expected, abs=1e-4)
        assert max(map(abs, expected)) > 1e-3
    assert len(attention.values["name"]["overlap"]) == 2


class Pasted(EvaluationDataset):
    """A dataset of one's own: two rectangles on grey, and no true answer."""

    name = "pasted"
    boxes = ((8, 8, 40, 40), (56, 48, 88, 88))

    def __len__(self) -> int:
        return 1

    def sample_id(self, index: int) -> str:
        return "only"

    def object_masks(self, index: int) -> Any:
        masks = torch.zeros(2, 96, 96, dtype=torch.bool)
        for mask, (left, upper, right, lower) in zip(masks, self.boxes):
            mask[upper:lower, left:right] = True
        return masks.numpy()

    def without(self, index: int, objects: Sequence[int]) -> Image.Image:
        """The rectangles that are left."""
        image = Image.new("RGB", (96, 96), (90, 90, 90))
        for place, box in enumerate(self.boxes):
            if place not in objects:
                image.paste([(220, 40, 40), (40, 40, 220)][place], box)
        return image

    def __getitem__(self, index: int) -> Any:
        image = self.without(index, ())
        return (
            ImagePromptInput(image, "Describe it.", self.processor, self.model),
            None,
            (),
        )


def test_a_dataset_of_ones_own(world: World) -> None:
    model, processor = world
    dataset = Pasted(processor, model)
    assert isinstance(dataset, RedrawnScenes)
    methods = {"exact": EffectsOracle(model), "DEX-AR": LayerDexAR(model)}
    exact, dexar = measured(world, methods, dataset)
    assert len(exact.details["answer"].split()) > 5
    effects = torch.tensor(exact.details["effects"])
    assert (effects.amax(0) > 1).all(), "both rectangles are named"
    assert dexar.values[""]["top-1"].count(1.0) >= 3


def test_what_can_not_be_measured_is_said(world: World) -> None:
    model, processor = world
    methods = {"x": LayerAttention(model)}

    class Photographs(Pasted):
        name = "photographs"
        without: Any = None

    # A name that is None is no method.
    assert not isinstance(Photographs(processor), RedrawnScenes)
    with pytest.raises(TypeError, match="'photographs' lacks object_masks"):
        EffectsProtocol(Photographs(processor))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"negligible": -1.0}, "negligible must be a number of nats, 0 or more"),
        ({"similar": 1.0}, "similar must be a share"),
        ({"substantial": math.nan}, "substantial must be a number of nats"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            EffectsProtocol(Pasted(processor), **options)

    class Larger(Pasted):
        def without(self, index: int, objects: Sequence[int]) -> Image.Image:
            image = super().without(index, objects)
            return image.resize((99, 96)) if objects else image

    with pytest.raises(ValueError, match="96 x 96 pixels, got 99 x 96"):
        measured(world, methods, Larger(processor, model))

    class Wider(Pasted):
        def object_masks(self, index: int) -> Any:
            return super().object_masks(index)[:, :, :90]

    with pytest.raises(ValueError, match=r"size, \(96, 96\), got \(96, 90\)"):
        measured(world, methods, Wider(processor, model))

    dataset = scenes(world, TWO)
    protocol = EffectsProtocol(dataset)
    ids: dict[str, Any] = {"sample": "x", "image": "x", "seed": 0}
    pairs: Any = {name: (one, {}) for name, one in methods.items()}
    with pytest.raises(ValueError, match="has no sample 'x'"):
        list(protocol.measure(pairs, dataset[0], processor, **ids))
