"""Scenes of letters and digits as a dataset."""

import pickle
from typing import Any

import numpy as np
import pytest
from captum_dexar import LayerDexAR, letters, shapes
from captum_dexar.evaluation import evaluate, LettersDataset, ShapesDataset
from captum_dexar.evaluation.datasets.drawn_scenes import OBJECTS
from captum_dexar.letters import build_processor, make_scene
from tests.evaluation.datasets.models import letters_model

ALL_KINDS = (*LettersDataset.word_kinds, OBJECTS)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_regions_of_every_kind(count: int) -> None:
    seed = next(seed for seed in range(99) if len(make_scene(seed).objects) == count)
    dataset = LettersDataset([seed], build_processor(), kinds=ALL_KINDS)
    scene = make_scene(seed)
    regions: Any = dataset[0][2]
    *words, whole = regions
    # Every word is one token.
    for position, ((tokens, mask, *kind), word) in enumerate(
        zip(words, scene.caption_words, strict=True)
    ):
        assert tokens == [position]
        if word.kind == "filler":
            assert mask is None and not kind
            continue
        assert kind == [word.kind]
        expected = scene.mask
        if word.kind in ("colour", "character", "size"):
            assert word.object_index is not None
            expected = scene.objects[word.object_index].mask
        assert np.array_equal(mask, expected)
    assert whole[0] is None and whole[2] == OBJECTS
    assert np.array_equal(whole[1], scene.mask)


def test_two_kinds_are_measured_by_default() -> None:
    regions: Any = LettersDataset([7], build_processor())[0][2]
    assert {kind for _, mask, *kind in regions for kind in kind} == {
        "colour",
        "character",
    }


def test_maps_are_evaluated() -> None:
    model = letters_model()
    processor = build_processor()
    dataset = LettersDataset(range(3), processor, model)
    found = evaluate({"x": LayerDexAR(model)}, dataset, processor=processor)
    count = sum(len(make_scene(seed).objects) for seed in range(3))
    assert found.num_regions["colour"] == found.num_regions["character"] == count


@pytest.mark.parametrize(
    "made, world", [(ShapesDataset, shapes), (LettersDataset, letters)]
)
def test_samples_are_drawn_without_objects(made: Any, world: Any) -> None:
    dataset = made([3, 8], build_processor())
    scene = world.make_scene(8)
    masks = [item.mask for item in scene.objects]
    assert np.array_equal(np.stack(dataset.object_masks(1)), np.stack(masks))
    for left_out in ([], [0], list(range(len(masks)))):
        expected = np.asarray(scene.image_without(*left_out))
        assert np.array_equal(np.asarray(dataset.without(1, left_out)), expected)


def test_ids_descriptions_and_copies() -> None:
    processor = build_processor()
    dataset = LettersDataset(range(5, 8), processor)
    assert [dataset.sample_id(i) for i in range(len(dataset))] == ["5", "6", "7"]
    assert dataset.description()["name"] == "letters"
    assert pickle.loads(pickle.dumps(dataset))[1][1] == dataset[1][1]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="kind 'shape'. The kinds are colour, charact"):
        LettersDataset([1], build_processor(), kinds=["shape"])
