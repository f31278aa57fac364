"""Captions and questions are true of the objects, word by word."""

import re

import pytest
from captum_dexar.shapes import make_scene, Scene, SceneObject
from captum_dexar.shapes.language import COLOURS, QUESTION_KINDS, SHAPES


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
