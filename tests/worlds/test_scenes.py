"""What holds of the scenes of every world."""

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar.letters.world import WORLD as LETTERS
from captum_dexar.shapes.world import WORLD as SHAPES
from captum_dexar.worlds.arrangement import arranged, is_clearly_arranged
from captum_dexar.worlds.scene import Scene
from captum_dexar.worlds.words import CaptionWord
from captum_dexar.worlds.world import World
from scipy.ndimage import binary_dilation

SEEDS = range(120)

pytestmark = pytest.mark.parametrize(
    "world", [SHAPES, LETTERS], ids=lambda one: one.name
)


def _scenes(world: World) -> list[Scene]:
    return _drawn(world.name)


@cache
def _drawn(name: str) -> list[Scene]:
    make_scene = {SHAPES.name: SHAPES, LETTERS.name: LETTERS}[name].make_scene
    return [make_scene(seed) for seed in SEEDS]


def test_the_same_seed_gives_the_same_scene(world: World) -> None:
    first, second = world.make_scene(31), world.make_scene(31)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.caption == second.caption
    assert first.questions == second.questions
    for one, other in zip(first.objects, second.objects, strict=True):
        assert np.array_equal(one.mask, other.mask)
    assert first.image.tobytes() != world.make_scene(32).image.tobytes()


def test_global_random_state_is_untouched(world: World) -> None:
    numpy_state: Any = np.random.get_state()
    before = random.getstate(), numpy_state[1].copy(), torch.get_rng_state()
    world.make_scene(5)
    assert random.getstate() == before[0]
    numpy_state = np.random.get_state()
    assert np.array_equal(numpy_state[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_objects_can_be_asked_for(world: World, count: int) -> None:
    scenes = (world.make_scene(seed, num_objects=count) for seed in SEEDS)
    assert all(len(scene.objects) == count for scene in scenes)


def test_wrong_arguments_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="num_objects must be 1, 2, 3 or None, got 4"):
        world.make_scene(0, num_objects=4)
    with pytest.raises(ValueError, match="seed must be .* got -1"):
        world.make_scene(-1)


def test_every_word_for_an_object_occurs(world: World) -> None:
    scenes = _scenes(world)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    for name, words in world.attributes.items():
        found = {getattr(item, name) for scene in scenes for item in scene.objects}
        assert found == set(words)


def test_colours_are_unambiguous(world: World) -> None:
    for scene in _scenes(world):
        assert len({item.colour for item in scene.objects}) == len(scene.objects)


def test_objects_do_not_touch(world: World) -> None:
    for scene in _scenes(world):
        around = [binary_dilation(item.mask).astype(int) for item in scene.objects]
        assert sum(around).max() == 1
        union = sum(item.mask.astype(int) for item in scene.objects)
        assert np.array_equal(scene.mask, union == 1)


def test_masks_cannot_be_written_to(world: World) -> None:
    with pytest.raises(ValueError, match="read-only"):
        world.make_scene(0).objects[0].mask[0, 0] = True


def test_several_objects_or_none_are_left_out(world: World) -> None:
    scene = world.make_scene(3, num_objects=3)
    whole = np.asarray(scene.image)
    assert np.array_equal(np.asarray(scene.image_without()), whole)
    both = np.asarray(scene.image_without(0, 2))
    for index in (0, 2):
        one = np.asarray(scene.image_without(index))
        changed = (one != whole).any(-1)
        assert np.array_equal(both[changed], one[changed])
    unchanged = scene.objects[1].mask
    assert np.array_equal(both[unchanged], whole[unchanged])
    with pytest.raises(IndexError, match=r"objects 0 to 2, got \[3\]"):
        scene.image_without(3)


def _said_order(scene: Scene) -> list[Any]:
    """The objects in the order in which the caption names their colours."""
    words = [word for word in scene.caption_words if word.kind == "colour"]
    return [scene.objects[word.object_index or 0] for word in words]


def test_captions_are_true_of_the_arrangement(world: World) -> None:
    for scene in _scenes(world):
        named = _said_order(scene)
        assert sorted(map(id, named)) == sorted(map(id, scene.objects))
        relations = [w.text for w in scene.caption_words if w.kind == "relation"]
        if len(named) != 2:
            assert not relations
            assert named == sorted(named, key=lambda item: item.center[0])
            continue
        (x0, y0), (x1, y1) = named[0].center, named[1].center
        if relations == ["above"]:
            assert y1 - y0 > abs(x1 - x0)
        else:
            assert relations == ["left", "of"]
            assert x1 - x0 > abs(y1 - y0)


def test_caption_words_know_what_they_refer_to(world: World) -> None:
    visual = {word for words in world.attributes.values() for word in words}
    for scene in _scenes(world):
        assert scene.caption.split() == [word.text for word in scene.caption_words]
        every = tuple(range(len(scene.objects)))
        for word in scene.caption_words:
            if word.kind in world.attributes:
                assert word.object_index is not None
                assert word.object_indices == (word.object_index,)
                item = scene.objects[word.object_index]
                assert word.text == getattr(item, word.kind)
            elif word.kind in ("count", "relation"):
                assert word.object_indices == every
                assert word.object_index == (0 if len(every) == 1 else None)
            else:
                assert word.kind == "filler" and word.text not in visual
                assert word.object_indices == () and word.object_index is None


def _existing(scene: Scene, answer: str) -> Iterator[tuple[str, str]]:
    """The colours and names of the pairs that are asked for and exist, or do not."""
    for question in scene.questions:
        if question.kind == "exists" and question.answer == answer:
            match = re.fullmatch(r"is there an? (\w+) (\w+) \?", question.text)
            assert match
            yield match[1], match[2]


def test_denied_pairs_share_an_attribute_with_an_object(world: World) -> None:
    name, _, _ = world.attributes
    swapped = 0
    for scene in _scenes(world):
        pairs = [(item.colour, getattr(item, name)) for item in scene.objects]
        assert all(pair in pairs for pair in _existing(scene, "yes"))
        for colour, other in _existing(scene, "no"):
            has_colour = any(colour == one for one, _ in pairs)
            has_other = any(other == one for _, one in pairs)
            assert (colour, other) not in pairs
            assert has_colour or has_other
            swapped += has_colour and has_other
    assert swapped


def test_the_left_one_is_asked_for_where_that_is_clear(world: World) -> None:
    for scene in _scenes(world):
        places = sorted(item.center[0] for item in scene.objects)
        is_clear = len(places) > 1 and places[1] - places[0] >= 8
        assert is_clear == any(one.kind == "left" for one in scene.questions)


class _At:
    def __init__(self, *center: float) -> None:
        self.center = center


@pytest.mark.parametrize(
    ("centers", "said", "is_clear"),
    [
        ([(50, 50)], "0", True),
        ([(50, 10), (20, 60)], "0 above 1", True),
        ([(50, 60), (20, 10)], "1 above 0", True),
        ([(70, 10), (20, 40)], "1 left of 0", True),
        # 30 to the right and 25 down: which of the two it is is not clear.
        ([(20, 10), (50, 35)], "0 left of 1", False),
        ([(60, 10), (20, 10), (40, 90)], "1 , 2 and 0", True),
        ([(60, 10), (20, 10), (27, 90)], "1 , 2 and 0", False),
    ],
)
def test_arrangements_by_hand(
    world: World, centers: list[tuple[float, float]], said: str, is_clear: bool
) -> None:
    words = arranged(
        [_At(*center) for center in centers],  # type: ignore[misc]
        lambda index: [CaptionWord(str(index), "colour", (index,))],
    )
    assert " ".join(word.text for word in words) == said
    assert is_clearly_arranged(np.array([centers], dtype=float)).tolist() == [is_clear]
