"""Captions and questions are true of the characters, word by word."""

import re

import pytest
from captum_dexar.letters import Character, make_scene, Scene
from captum_dexar.letters.language import (
    CHARACTERS,
    COLOURS,
    DIGITS,
    NUMBERS,
    QUESTION_KINDS,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed) for seed in range(200)]


def _phrase(item: Character) -> str:
    return f"a {item.size} {item.colour} {item.character}"


def _from_left(scene: Scene) -> list[Character]:
    return sorted(scene.objects, key=lambda item: item.center[0])


def _truth(scene: Scene, text: str) -> str:
    """The answer to a question, read off the characters."""
    objects = scene.objects
    yes_no = {True: "yes", False: "no"}
    if match := re.fullmatch(r"which character is (\w+) \?", text):
        (item,) = [item for item in objects if item.colour == match[1]]
        return item.character
    if match := re.fullmatch(r"what color is the (\w) \?", text):
        (item,) = [item for item in objects if item.character == match[1]]
        return item.colour
    if match := re.fullmatch(r"is there anything (\w+) \?", text):
        assert match[1] in COLOURS
        return yes_no[any(item.colour == match[1] for item in objects)]
    if match := re.fullmatch(r"is there (an?) (\w) \?", text):
        assert match[2] in CHARACTERS
        assert (match[1] == "an") == (match[2] in "AEFHILMNORSX8")
        return yes_no[any(item.character == match[2] for item in objects)]
    if match := re.fullmatch(r"is there a (\w+) (\w) \?", text):
        pairs = [(item.colour, item.character) for item in objects]
        return yes_no[match.groups() in pairs]
    if text == "how many characters are there ?":
        return NUMBERS[len(objects)]
    if text == "how many digits are there ?":
        return NUMBERS[sum(item.character.isdigit() for item in objects)]
    if text == "what is written ?":
        return " ".join(item.character for item in _from_left(scene))
    assert text == "what is on the left ?"
    return _phrase(_from_left(scene)[0])


def test_caption_grammar() -> None:
    noun = r"a (small|big) [a-z]+ [A-Z\d]"
    patterns = {
        1: f"there is one character : {noun} \\.",
        2: f"there are two characters : {noun} (above|left of) {noun} \\.",
        3: f"there are three characters : {noun} , {noun} and {noun} \\.",
    }
    for count, pattern in patterns.items():
        for seed in range(30):
            assert re.fullmatch(pattern, make_scene(seed, num_objects=count).caption)


def test_answers_are_true(scenes: list[Scene]) -> None:
    seen: dict[str, set[str]] = {kind: set() for kind in QUESTION_KINDS}
    for scene in scenes:
        assert len(set(scene.questions)) == len(scene.questions)
        assert 10 <= len(scene.questions) <= 16
        for question in scene.questions:
            assert question.answer == _truth(scene, question.text), question
            seen[question.kind].add(question.answer)
    assert seen["character"] == set(CHARACTERS)
    assert seen["colour"] == set(COLOURS)
    assert seen["count"] == {"one", "two", "three"}
    assert {"zero", "one", "two"} <= seen["digits"]
    for kind in ("colour exists", "character exists", "exists"):
        assert seen[kind] == {"yes", "no"}


def test_order_is_asked_for_only_where_it_is_clear(scenes: list[Scene]) -> None:
    for scene in scenes:
        kinds = {question.kind for question in scene.questions}
        places = [item.center[0] for item in _from_left(scene)]
        gaps = [right - left for left, right in zip(places, places[1:])]
        assert ("left" in kinds) == (bool(gaps) and gaps[0] >= 8)
        assert ("spelling" in kinds) == all(gap >= 8 for gap in gaps)


def test_digits_are_digits() -> None:
    assert [one for one in CHARACTERS if one.isdigit()] == list(DIGITS)
    assert all(one.isupper() for one in CHARACTERS if one not in DIGITS)
