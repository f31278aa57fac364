"""Methods measured on datasets whose right numbers are known."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from captum.attr import InputXGradient
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.baselines import LayerRandomMap, LayerUniformMap
from captum_dexar.evaluation import evaluate, LOCALIZATION, ShapesDataset
from captum_dexar.evaluation.evaluation import Region
from captum_dexar.metrics import pointing_game, soft_iou
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image
from torch import nn, Tensor

PROMPT = "Describe the image."
TARGET = "the image shows a red circle ."

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]


class OnePatch(LayerUniformMap):
    """All attribution lies on one image token: the step's own number."""

    def layer_attributions(
        self, steps: Any, cache: Any, on_layer: Callable[[], object]
    ) -> Any:
        maps, target_logits, layers = super().layer_attributions(steps, cache, on_layer)
        patches = torch.zeros_like(maps)
        for step in range(patches.shape[1]):
            patches[:, step, :, step] = 1.0
        return patches, target_logits, layers


def share(heat: Tensor, mask: Tensor) -> float:
    """How much of a map lies on the mask."""
    return float(heat[mask].sum() / heat.sum())


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[nn.Module, Any]:
    return load_vlm()


def _input(world: tuple[nn.Module, Any]) -> ImagePromptInput:
    """An image of 12 x 12 pixels, so that each image token stands for one pixel."""
    return ImagePromptInput(Image.new("RGB", (12, 12), "red"), PROMPT, world[1])


def _pixels(*columns: int) -> Tensor:
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[0, list(columns)] = True
    return mask


def test_a_hand_made_dataset(world: tuple[nn.Module, Any]) -> None:
    """Token t points at pixel (0, t), and two tokens at both of their pixels."""
    first: list[Region] = [
        ([4], _pixels(4), "colour"),  # the pixel itself: 1
        ([5], _pixels(4), "shape"),  # the pixel beside it: 0
        ((4, 5), _pixels(5), "shape"),  # one of two: 1/2
        ([0], None),
    ]
    read_only = _pixels(1, 2, 3).numpy()
    read_only.setflags(write=False)
    second: list[Region] = [
        ([1, 2, 3, 6], read_only, "colour"),  # three of four: 3/4
        ([2], _pixels(2)),  # of no kind: 1
    ]
    inp = _input(world)
    dataset = [(inp, TARGET, first), (inp, TARGET, second)]
    measures = {"share": share, "peak": lambda heat, mask: heat[mask].max()}
    methods = {"patch": OnePatch(world[0])}
    found = evaluate(methods, dataset, measures, world[1])
    assert found.num_regions == {"colour": 2, "shape": 2, "all": 5}
    means = found.means["patch"]
    assert means["colour"]["share"] == pytest.approx((1 + 3 / 4) / 2)
    assert means["shape"]["share"] == pytest.approx((0 + 1 / 2) / 2)
    assert means["all"]["share"] == pytest.approx((1 + 0 + 1 / 2 + 3 / 4 + 1) / 5)
    assert means["colour"]["peak"] == 1 and means["shape"]["peak"] == 0.5
    assert found.weight_auroc == {"patch": None}
    heading, _, row = found.table().splitlines()
    assert heading.startswith("| method | colour: share | colour: peak | shape: share")
    assert row == "| patch | 0.875 | 1.000 | 0.250 | 0.500 | 0.650 | 0.800 |  |"


def test_weights_of_words_are_compared(world: tuple[nn.Module, Any]) -> None:
    """The largest weight of a region's tokens, against those of regions unmasked."""
    model, processor = world
    inp = ImagePromptInput(make_scene(0).image, PROMPT, processor)
    dexar = LayerDexAR(model)
    result = VLMAttribution(dexar, processor).attribute(inp, TARGET)
    assert result.token_weights is not None
    weights = result.token_weights.tolist()
    mask = torch.ones(96, 96, dtype=torch.bool)
    seen: list[Any] = [([4, 5], mask), ([3], mask)]
    unseen: list[Any] = [([0], None), ([1, 2], None), ([3], None)]
    pairs = [
        (a, b)
        for a in (max(weights[4:6]), weights[3])
        for b in (weights[0], max(weights[1:3]), weights[3])
    ]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / 6
    dataset = [(inp, TARGET, [*seen, *unseen])]
    found = evaluate({"x": dexar}, dataset, processor=processor)
    assert found.weight_auroc["x"] == pytest.approx(expected)
    assert list(found.means["x"]) == ["all"]


def test_methods_are_taken_as_compare_takes_them(world: tuple[nn.Module, Any]) -> None:
    model, processor = world
    dexar = LayerDexAR(model)
    methods = [dexar, (dexar, {"head_filter": False}), LayerUniformMap(model)]
    dataset = ShapesDataset([3], processor)
    found = evaluate(methods, dataset, processor=processor)
    names = [LayerDexAR.get_name(), f"{LayerDexAR.get_name()} (head_filter=False)"]
    assert list(found.means) == [*names, LayerUniformMap.get_name()]
    scene = make_scene(3)
    inp = ImagePromptInput(scene.image, PROMPT, processor, model)
    own = VLMAttribution(dexar, processor).attribute(
        inp, scene.caption, head_filter=False
    )
    masks = [
        (position, torch.from_numpy(scene.objects[word.object_index].mask.copy()))
        for position, word in enumerate(scene.caption_words)
        if word.kind == "shape" and word.object_index is not None
    ]
    means = found.means[names[1]]["shape"]
    expected = [soft_iou(own.pixel_map(t), mask) for t, mask in masks]
    assert means["soft-IoU"] == pytest.approx(sum(expected) / len(expected))
    hits = [pointing_game(own.pixel_map(t), mask, 4.0) for t, mask in masks]
    assert means["pointing"] == sum(hits) / len(hits)
    assert found.means[LayerUniformMap.get_name()]["all"]["pointing"] == 0


def test_the_positive_part_of_signed_maps_is_measured(
    world: tuple[nn.Module, Any],
) -> None:
    model, processor = world
    scene = make_scene(0)
    inp = ImagePromptInput(scene.image, PROMPT, processor)
    method = InputXGradient(VLMForward(model))
    result = VLMAttribution(method, processor).attribute(inp, TARGET)
    assert result.is_signed
    mask = torch.from_numpy(scene.mask.copy())
    dataset = [(inp, TARGET, [([4], mask)])]
    found = evaluate({"x": method}, dataset, processor=processor)
    expected = soft_iou(result.pixel_map(4).clamp(min=0), mask)
    assert found.means["x"]["all"]["soft-IoU"] == pytest.approx(expected)


def test_random_maps_differ_between_examples(world: tuple[nn.Module, Any]) -> None:
    model, processor = world
    inp = ImagePromptInput(make_scene(0).image, PROMPT, processor)
    maps: list[Tensor] = []

    def keep(heat: Tensor, mask: Tensor) -> float:
        maps.append(heat)
        return 0.0

    chance = LayerRandomMap(model, seed=99)
    mask = torch.ones(96, 96, dtype=torch.bool)
    dataset = 2 * [(inp, TARGET, [([4], mask)])]
    evaluate({"chance": chance}, dataset, {"kept": keep}, processor, seed=7)
    assert chance.seed == 99
    for seed, heat in zip((7, 8), maps):
        alone = VLMAttribution(LayerRandomMap(model, seed=seed), processor)
        assert torch.equal(heat, alone.attribute(inp, TARGET).pixel_map(4))


def test_what_is_wrong_is_said(world: tuple[nn.Module, Any]) -> None:
    model, processor = world
    inp, methods = _input(world), {"x": LayerUniformMap(model)}

    def run(*regions: Any) -> None:
        dataset = [(inp, TARGET, [([0], _pixels(0))]), (inp, TARGET, regions)]
        evaluate(methods, dataset, processor=processor)

    for tokens in ([7], [-1], []):
        with pytest.raises(ValueError, match="Example 1: the answer has 7 tokens, got"):
            run((tokens, None))
    with pytest.raises(ValueError, match="Example 1: .*of one size"):
        run(([0], torch.ones(3, 3)))
    with pytest.raises(ValueError, match="Example 1: The mask is empty"):
        run(([0], torch.zeros(12, 12)))
    for dataset in ([], [(inp, TARGET, [([0], None)])]):
        with pytest.raises(ValueError, match="No region of the dataset has a mask"):
            evaluate(methods, dataset, processor=processor)
    with pytest.raises(ValueError, match="x could not explain the answer: target is"):
        evaluate(methods, [(inp, "", [])], processor=processor)
    with pytest.raises(ValueError, match="no method"):
        evaluate({}, [], processor=processor)


def test_an_infinite_ratio_counts_as_sixty_decibels() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    snr = LOCALIZATION["SNR (dB)"]
    assert snr(mask.float(), mask) == 60 and snr(1 - mask.float(), mask) == -60


class Letters:
    """A tokenizer that takes two characters at a time, and the space with them."""

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        return LetterEncoding(input_ids=list(range((len(text) + 1) // 2)))


class LetterEncoding(dict[str, Sequence[int]]):
    """The ids, and which of them holds a character."""

    def char_to_token(self, place: int) -> int:
        return place // 2


def test_the_scenes_name_the_tokens_of_words(
    world: tuple[nn.Module, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, processor = world
    scene = make_scene(5)
    dataset = ShapesDataset([5], processor)
    assert len(dataset) == 1
    examples: Any = list(dataset)
    ((inp, target, regions),) = examples
    assert inp.images[0].size == (96, 96)
    assert processor.decode(target) == scene.caption
    expected = [
        (position, word)
        for position, word in enumerate(scene.caption_words)
        if word.kind in ("colour", "shape", "filler")
    ]
    assert len(regions) == len(expected)
    for region, (position, word) in zip(regions, expected):
        assert region[0] == [position]
        if word.kind == "filler":
            assert region[1:] == (None,)
        else:
            assert region[2] == word.kind and word.object_index is not None
            assert (region[1].numpy() == scene.objects[word.object_index].mask).all()
    monkeypatch.setattr(processor, "tokenizer", Letters())
    monkeypatch.setattr(
        "captum_dexar.evaluation.datasets.drawn_scenes.ImagePromptInput",
        lambda *given: None,
    )
    parts: Any = list(dataset)
    ((_, ids, split),) = parts
    for region, (_, word) in zip(split, expected):
        text = "".join(scene.caption[2 * t : 2 * t + 2] for t in region[0])
        assert word.text in text and len(text) <= len(word.text) + 2
        assert max(region[0]) < len(ids)
