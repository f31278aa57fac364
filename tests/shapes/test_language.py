"""Captions and questions are true of the objects, word by word."""

import re

import pytest
from captum_dexar.shapes import make_scene, Scene, SceneObject
from captum_dexar.shapes.language import COLOURS, QUESTION_KINDS, SHAPES, SIZES


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed) for seed in range(200)]


def _phrase(item: SceneObject) -> str:
    return f"a {item.size} {item.colour} {item.shape}"


def _truth(scene: Scene, text: str) -> str:
    """The answer to a question, read off the objects."""
    objects = scene.objects
    yes_no = {True: "yes", False: "no"}
    if match := re.fullmatch(r"what shape is the (\w+) object \?", text):
        (item,) = [item for item in objects if item.colour == match[1]]
        return item.shape
    if match := re.fullmatch(r"is there anything (\w+) \?", text):
        assert match[1] in COLOURS
        return yes_no[any(item.colour == match[1] for item in objects)]
    if match := re.fullmatch(r"is there a (\w+) \?", text):
        assert match[1] in SHAPES
        return yes_no[any(item.shape == match[1] for item in objects)]
    if match := re.fullmatch(r"is there an? (\w+) (\w+) \?", text):
        return yes_no[any((o.colour, o.shape) == match.groups() for o in objects)]
    if text == "how many objects are there ?":
        return ["one", "two", "three"][len(objects) - 1]
    assert text == "what is on the left ?"
    return _phrase(min(objects, key=lambda item: item.center[0]))


def test_captions_are_true(scenes: list[Scene]) -> None:
    for scene in scenes:
        phrases = re.findall("a (?:small|large) [a-z]+ [a-z]+", scene.caption)
        assert sorted(phrases) == sorted(map(_phrase, scene.objects))
        named = [
            next(item for item in scene.objects if _phrase(item) == phrase)
            for phrase in phrases
        ]
        relations = {w.text for w in scene.caption_words if w.kind == "relation"}
        if len(named) == 2:
            (x0, y0), (x1, y1) = named[0].center, named[1].center
            if relations == {"above"}:
                assert y1 - y0 > abs(x1 - x0)
            else:
                assert relations == {"left", "of"}
                assert x1 - x0 > abs(y1 - y0)
        else:
            assert not relations
            assert named == sorted(named, key=lambda item: item.center[0])


def test_caption_grammar() -> None:
    noun = "a (small|large) [a-z]+ [a-z]+"
    patterns = {
        1: f"the image shows {noun} \\.",
        2: f"the image shows {noun} (above|left of) {noun} \\.",
        3: f"the image shows {noun} , {noun} and {noun} \\.",
    }
    for count, pattern in patterns.items():
        for seed in range(30):
            assert re.fullmatch(pattern, make_scene(seed, num_objects=count).caption)


def test_caption_words_know_what_they_speak_of(scenes: list[Scene]) -> None:
    values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}
    for scene in scenes:
        assert scene.caption.split() == [word.text for word in scene.caption_words]
        for word in scene.caption_words:
            if word.kind in values:
                assert word.object_index is not None
                item = scene.objects[word.object_index]
                assert word.text == getattr(item, word.kind)
            else:
                assert word.object_index is None
                assert word.kind in ("relation", "filler")
                assert word.text not in (*COLOURS, *SHAPES, *SIZES)
        spoken_of = [w.object_index for w in scene.caption_words if w.kind == "shape"]
        assert sorted(map(int, spoken_of)) == list(range(len(scene.objects)))


def test_answers_are_true(scenes: list[Scene]) -> None:
    seen: dict[str, set[str]] = {kind: set() for kind in QUESTION_KINDS}
    for scene in scenes:
        assert len(set(scene.questions)) == len(scene.questions)
        for question in scene.questions:
            assert question.answer == _truth(scene, question.text), question
            seen[question.kind].add(question.answer)
    assert seen["shape"] == set(SHAPES)
    assert seen["count"] == {"one", "two", "three"}
    for kind in ("colour exists", "shape exists", "exists"):
        assert seen[kind] == {"yes", "no"}


def test_denied_pairs_share_an_attribute_with_an_object(scenes: list[Scene]) -> None:
    for scene in scenes:
        for question in scene.questions:
            if question.kind == "exists" and question.answer == "no":
                colour, shape = question.text.split()[-3:-1]
                assert any(
                    colour == item.colour or shape == item.shape
                    for item in scene.objects
                )


def test_left_is_asked_only_where_it_is_clear(scenes: list[Scene]) -> None:
    for scene in scenes:
        places = sorted(item.center[0] for item in scene.objects)
        clear = len(places) > 1 and places[1] - places[0] >= 8
        assert clear == any(question.kind == "left" for question in scene.questions)
