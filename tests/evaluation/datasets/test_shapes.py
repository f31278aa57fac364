"""The bundled scenes as a dataset."""

import pickle
from typing import Any

import numpy as np
import pytest
from captum_dexar import LayerDexAR
from captum_dexar.evaluation import evaluate, RedrawnScenes, ShapesDataset
from captum_dexar.evaluation.datasets.drawn_scenes import OBJECTS
from captum_dexar.shapes import make_scene
from tests.evaluation.datasets.models import model_and_processor

ALL_KINDS = (*ShapesDataset.word_kinds, OBJECTS)


def _seed_of_two_objects() -> int:
    return next(seed for seed in range(99) if len(make_scene(seed).objects) == 2)


def test_regions_of_every_kind() -> None:
    seed = _seed_of_two_objects()
    processor = model_and_processor("bundled")[1]
    dataset = ShapesDataset([seed], processor, kinds=ALL_KINDS)
    scene = make_scene(seed)
    regions: Any = dataset[0][2]
    masked = [region for region in regions if region[1] is not None]
    found = {kind: [r for r in masked if r[2] == kind] for kind in ALL_KINDS}
    words = scene.caption_words
    for kind in ("colour", "shape", "size"):
        expected = [(i, w) for i, w in enumerate(words) if w.kind == kind]
        assert len(found[kind]) == 2
        for (tokens, mask, _), (position, word) in zip(found[kind], expected):
            assert tokens == [position] and word.object_index is not None
            assert np.array_equal(mask, scene.objects[word.object_index].mask)
    union = scene.objects[0].mask | scene.objects[1].mask
    relation = [i for i, word in enumerate(words) if word.kind == "relation"]
    assert [tokens for tokens, _, _ in found["relation"]] == [[i] for i in relation]
    filler = [i for i, word in enumerate(words) if word.kind == "filler"]
    assert [tokens for tokens, mask, *_ in regions if mask is None] == [
        [i] for i in filler
    ]
    assert [tokens for tokens, _, _ in found["objects"]] == [None]
    for kind in ("relation", "objects"):
        assert all(np.array_equal(mask, union) for _, mask, _ in found[kind])
    assert len(masked) == sum(map(len, found.values())) == 6 + len(relation) + 1


def test_the_map_of_the_answer_is_evaluated() -> None:
    model, processor = model_and_processor("bundled")
    dataset = ShapesDataset(range(2), processor, model, kinds=["objects", "colour"])
    found = evaluate({"x": LayerDexAR(model)}, dataset, processor=processor)
    assert found.num_regions["objects"] == 2
    # The whole answer has no weight.
    words = ShapesDataset(range(2), processor, model, kinds=["colour"])
    alone = evaluate({"x": LayerDexAR(model)}, words, processor=processor)
    assert found.weight_auroc == alone.weight_auroc != {"x": None}
    assert found.means["x"]["objects"]["pointing"] == 1


def test_ids_descriptions_and_copies() -> None:
    processor = model_and_processor("bundled")[1]
    dataset = ShapesDataset(range(5, 8), processor)
    assert [dataset.sample_id(i) for i in range(len(dataset))] == ["5", "6", "7"]
    same = ShapesDataset([5, 6, 7], processor, kinds=["shape", "colour"])
    assert same.description() == dataset.description()
    assert ShapesDataset([5, 7, 6], processor).description() != dataset.description()
    more = ShapesDataset(range(5, 8), processor, kinds=["shape"])
    assert more.description() != dataset.description()
    assert pickle.loads(pickle.dumps(dataset))[1][1] == dataset[1][1]
    with pytest.raises(IndexError):
        dataset[3]


def test_what_is_wrong_is_said() -> None:
    processor = model_and_processor("bundled")[1]
    with pytest.raises(ValueError, match="kind 'texture'. The kinds are colour, shape"):
        ShapesDataset([1], processor, kinds=["colour", "texture"])
    with pytest.raises(ValueError, match="A seed is given twice"):
        ShapesDataset([1, 2, 1], processor)


def test_scenes_are_drawn_again_without_objects() -> None:
    seed = _seed_of_two_objects()
    dataset = ShapesDataset([seed + 1, seed], model_and_processor("bundled")[1])
    scene = make_scene(seed)
    assert isinstance(dataset, RedrawnScenes)
    masks = dataset.object_masks(1)
    assert len(masks) == 2
    for mask, item in zip(masks, scene.objects):
        assert np.array_equal(mask, item.mask)
    for left_out in ([], [0], [1], [0, 1]):
        image = dataset.without(1, left_out)
        assert image.tobytes() == scene.image_without(*left_out).tobytes()
        changed = (np.array(image) != np.array(scene.image)).any(-1)
        for place, mask in enumerate(masks):
            assert changed[mask.numpy()].any() == (place in left_out)
