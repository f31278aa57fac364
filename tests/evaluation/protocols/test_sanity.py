"""The sanity protocol, on the bundled model and on methods whose answer is known."""

import copy
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.baselines import LayerAttention, LayerRandomMap, LayerUniformMap
from captum_dexar.evaluation import (
    DamagedSample,
    decoder_parts,
    EvaluationDataset,
    map_similarity,
    randomized,
    ShapesDataset,
    vision_part,
)
from captum_dexar.evaluation.protocols import Line, SanityProtocol
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.blocks import dark_image
from tests.helpers.plain_prompt_processors import florence2_processor
from tests.helpers.real_families import FAMILIES
from tests.helpers.unknown_family import unknown_model, unknown_processor
from tests.helpers.untouched import untouched, warm
from torch import nn

IDS: dict[str, Any] = {"sample": "7", "image": "7", "seed": 11}
COMPARED = (
    "unrelated image",
    "swapped image",
    "random head",
    "random decoder",
    "random vision tower",
)


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[nn.Module, Any]:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
    return warm(model, inp.to_model_input()), processor


class Few(EvaluationDataset):
    """Scenes with ids and image ids of one's choice; None is a damaged sample."""

    name = "few"

    def __init__(self, world: Any, images: dict[str, int | None]) -> None:
        super().__init__(world[1], world[0])
        self.scenes = ShapesDataset([1, 2, 3], world[1], world[0])
        self.images = list(images.items())

    def __len__(self) -> int:
        return len(self.images)

    def sample_id(self, index: int) -> str:
        return self.images[index][0]

    def image_id(self, index: int) -> str:
        return str(self.images[index][1])

    def __getitem__(self, index: int) -> Any:
        scene = self.images[index][1]
        if scene is None:
            raise DamagedSample(self.sample_id(index), "x.jpg", "it is empty")
        inp, target, regions = self.scenes[scene]
        # The first colour and shape word, and a filler word.
        words = [one for one in regions if len(one) == 3][:2]
        return inp, target, [*words, next(one for one in regions if len(one) == 2)]


def measured(world: Any, methods: dict[str, Any], **options: Any) -> list[Line]:
    """Of scene 0; the next samples are of the same image, damaged, and scene 1."""
    images = {"7": 0, "same": 0, "damaged": None, "9": 1, "8": 2}
    dataset = Few(world, images)
    protocol = SanityProtocol(dataset, **options)
    pairs: Any = {name: (method, {}) for name, method in methods.items()}
    return list(protocol.measure(pairs, dataset[0], world[1], **IDS))


def test_the_values_are_the_similarities_of_the_maps(world: Any) -> None:
    model, processor = world
    with untouched(model):
        (line,) = measured(world, {"DEX-AR": LayerDexAR(model)})
    assert list(line.values) == ["colour", "shape"]
    dataset: Any = Few(world, {"7": 0, "9": 1})
    (inp, target, regions), (other, other_target, other_regions) = dataset
    dexar: Any = VLMAttribution(LayerDexAR(model), processor)
    usual = dexar.attribute(inp, target)
    parts = decoder_parts(model)

    def explained(*chosen: Any) -> Any:
        with randomized(model, list(chosen), seed=11):
            return dexar.attribute(inp, target)

    results = {
        "unrelated image": dexar.attribute(other, other_target),
        "swapped image": dexar.attribute(other, target),
        "random head": explained(parts[0]),
        "random decoder": explained(*parts),
        "random vision tower": explained(vision_part(model)),
    }
    assert tuple(results) == COMPARED
    for place, kind in enumerate(("colour", "shape")):
        assert len(line.values[kind]) == 2 * len(COMPARED)
        first = usual.token_map_of(regions[place][0])
        for name, result in results.items():
            words = other_regions if name == "unrelated image" else regions
            second = result.token_map_of(words[place][0])
            found = map_similarity(first, second)
            assert line.values[kind][f"Spearman, {name}"] == [found.spearman]
            assert line.values[kind][f"SSIM, {name}"] == [found.ssim]
    curve = line.details["curves"]["cascade: SSIM"]
    assert curve["x"] == list(range(7)) and curve["y"][0] == 1
    depth = explained(*parts[:3])
    both = [
        map_similarity(usual.token_map_of(tokens), depth.token_map_of(tokens)).ssim
        for tokens in (regions[0][0], regions[1][0])
    ]
    assert curve["y"][3] == pytest.approx(sum(both) / 2)
    for name, end in (("SSIM", -1), ("Spearman", -1)):
        values = [line.values[k][f"{name}, random decoder"][0] for k in line.values]
        found = line.details["curves"][f"cascade: {name}"]["y"][end]
        assert found == pytest.approx(sum(values) / 2)
    assert line.degenerate == {} and line.seconds > 0


def test_what_does_not_depend_on_the_model_stays(world: Any) -> None:
    model = world[0]
    methods = {
        "random": LayerRandomMap(model),
        "uniform": LayerUniformMap(model),
        "attention": LayerAttention(model),
    }
    random, uniform, attention = measured(world, methods)
    for kind in ("colour", "shape"):
        for name in ("head", "decoder", "vision tower"):
            (value,) = random.values[kind][f"Spearman, random {name}"]
            assert value == pytest.approx(1)
        assert all(one == [None] for one in uniform.values[kind].values())
        # Attention can't depend on the head, but on everything else.
        (head,) = attention.values[kind]["Spearman, random head"]
        (decoder,) = attention.values[kind]["Spearman, random decoder"]
        assert head == pytest.approx(1) and decoder < 0.99
    assert random.details["curves"]["cascade: SSIM"]["y"] == pytest.approx([1] * 7)
    assert uniform.details["curves"]["cascade: SSIM"]["y"] == [None] * 7
    # Two maps of the scene itself; unrelated, swapped, six depths, the vision tower.
    assert uniform.degenerate == {"colour": 10, "shape": 10}
    assert random.degenerate == {}
    Line.from_json(uniform.to_json())
    # A line does not depend on the other methods.
    (alone,) = measured(world, {"attention": methods["attention"]})
    assert alone.values == attention.values and alone.details == attention.details


def test_layers_can_be_random_in_groups(world: Any) -> None:
    (whole,) = measured(world, {"x": LayerAttention(world[0])})
    (grouped,) = measured(world, {"x": LayerAttention(world[0])}, depths=3)
    curves = (one.details["curves"]["cascade: Spearman"] for one in (whole, grouped))
    every, some = curves
    assert some["x"] == [0, 1, 2, 3]
    # Five layers: the last two, then the other three.
    assert some["y"] == pytest.approx([every["y"][depth] for depth in (0, 1, 3, 6)])
    assert grouped.values == whole.values
    with pytest.raises(ValueError, match="depths must be at least 2"):
        SanityProtocol(Few(world, {}), depths=1)


def test_answers_may_be_the_models_own(world: Any) -> None:
    """Without a region the map of the whole answer is compared."""
    model, processor = world

    class Own(Few):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0], None, []

    dataset = Own(world, {"7": 0, "9": 1})
    protocol = SanityProtocol(dataset, gen_args={"max_new_tokens": 3})
    pairs: Any = {
        "a": (LayerAttention(model), {}),
        "b": (LayerDexAR(model), {"attention_power": 0.5}),
    }
    lines = list(protocol.measure(pairs, dataset[0], processor, **IDS))
    assert [line.details["answer"] for line in lines] == ["the image shows"] * 2
    attention: Any = VLMAttribution(pairs["a"][0], processor)
    gen_args = {"max_new_tokens": 3}
    maps = [attention.attribute(one, gen_args=gen_args) for one, *_ in dataset]
    expected = map_similarity(*(one.sequence_map for one in maps)).spearman
    found = lines[0].values["whole answer"]["Spearman, unrelated image"]
    assert found == [pytest.approx(expected, abs=1e-6)]
    assert protocol.description()["gen_args"] == {"max_new_tokens": 3}


def test_the_swapped_image_gets_the_same_question(world: Any) -> None:
    model, processor = world

    class Asked(Few):
        def __getitem__(self, index: int) -> Any:
            inp, target, regions = super().__getitem__(index)
            question = f"Is there a {('red', 'blue')[index]} object?"
            image = inp.images[0]
            return ImagePromptInput(image, question, processor), target, regions

    dataset: Any = Asked(world, {"7": 0, "9": 1})
    pairs: Any = {"x": (LayerAttention(model), {})}
    protocol = SanityProtocol(dataset)
    (line,) = protocol.measure(pairs, dataset[0], processor, **IDS)
    (inp, target, regions), (other, _, _) = dataset
    asked = ImagePromptInput(other.images, inp.prompt, processor)
    attention: Any = VLMAttribution(pairs["x"][0], processor)
    maps = [
        attention.attribute(one, target).token_map_of(regions[0][0])
        for one in (inp, asked)
    ]
    expected = map_similarity(*maps).spearman
    assert line.values["colour"]["Spearman, swapped image"] == [expected]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"7": 0, "x": 0, "y": None}, "has no other than that of sample '7'"),
        ({"5": 0, "x": 1}, r"\(few\) has no sample '7'"),
    ],
)
def test_another_image_is_needed(
    world: Any, images: dict[str, int | None], message: str
) -> None:
    dataset = Few(world, images)
    pairs: Any = {"x": (LayerAttention(world[0]), {})}
    with pytest.raises(ValueError, match=message):
        list(SanityProtocol(dataset).measure(pairs, dataset[0], world[1], **IDS))


def test_a_model_without_vision_tower_has_no_such_measure(world: Any) -> None:
    model: Any = copy.deepcopy(world[0])
    kind: Any = type(model.model)
    model.model.eyes = model.model.vision_tower
    tower = model.model.vision_tower
    del model.model.vision_tower

    class Eyes(kind):
        vision_tower = property(lambda self: self.eyes)

    model.model.__class__ = Eyes
    assert model.model.vision_tower is tower
    (line,) = measured((model, world[1]), {"x": LayerAttention(model)})
    names = [f"Spearman, {name}" for name in COMPARED[:-1]]
    assert [name for name in line.values["colour"] if "SSIM" not in name] == names
    assert torch.is_grad_enabled()


class Drawn(EvaluationDataset):
    """Two drawings, a question that ends a prompt, and an answer of three tokens."""

    name = "drawn"

    def __init__(self, world: Any, prompt: str) -> None:
        super().__init__(world[1], world[0])
        self.prompt = prompt

    def __len__(self) -> int:
        return 2

    def sample_id(self, index: int) -> str:
        return str(7 + index)

    def __getitem__(self, index: int) -> Any:
        drawing = dark_image(40, 40, index)
        inp = ImagePromptInput(drawing, self.prompt, self.processor, self.model)
        mask = torch.ones(40, 40, dtype=torch.bool)
        return inp, [40, 41, 42], [([1], mask, "word"), (None, mask, "objects")]


def tiny(name: str) -> tuple[Any, Any]:
    if name == "unknown":
        return unknown_model(), unknown_processor()
    model, processor = FAMILIES[name].build(), FAMILIES[name].processor()
    # The tiny Florence-2 has few positions.
    return model, florence2_processor(32) if name == "florence2" else processor


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("paligemma", "what is it ?"),
        ("florence2", "what is it ?"),
        ("mllama", "what is it ?"),
        # The places of its image tokens are checked with its vision tower, which is
        # not possible while that is random.
        ("unknown", "is <image> a"),
    ],
)
def test_other_families(name: str, prompt: str) -> None:
    world = tiny(name)
    model: Any = world[0]
    dataset = Drawn(world, prompt)
    inputs = dataset[0][0].to_model_input()
    if name != "florence2":
        warm(model, inputs)
    pairs: Any = {
        "DEX-AR": (LayerDexAR(model), {}),
        "attention": (LayerAttention(model), {}),
    }
    protocol = SanityProtocol(dataset)
    found: list[Line] = []
    with untouched(model):
        for seed in range(2):
            ids = {**IDS, "seed": seed}
            found += protocol.measure(pairs, dataset[0], world[1], **ids)
    for line in found:
        assert list(line.values) == ["word", "whole answer"]
        assert len(line.values["word"]) == 2 * len(COMPARED)
    # The seed makes other weights.
    first, second = (one.values["word"] for one in found if one.method == "attention")
    assert first["SSIM, swapped image"] == second["SSIM, swapped image"]
    assert first["SSIM, random decoder"] != second["SSIM, random decoder"]
