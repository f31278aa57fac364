"""Scenes: the same seed gives the same scene, masks are exact, all can be read."""

import hashlib

import numpy as np
import pytest
from captum_dexar.letters import Character, make_scene, Scene
from captum_dexar.letters.drawing import COLOUR_JITTER, COLOUR_VALUES, PIXEL_NOISE
from captum_dexar.letters.glyphs import FONTS
from captum_dexar.letters.language import CHARACTERS, COLOURS, SIZES
from captum_dexar.letters.scene import HEIGHT_RANGES, MAX_ROTATION
from scipy.ndimage import binary_dilation, binary_erosion

SEEDS = range(120)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed) for seed in SEEDS]


def _pixels(scene: Scene) -> np.ndarray:
    return np.asarray(scene.image).astype(float)


def _inner_colour(scene: Scene, item: Character) -> np.ndarray:
    inner = binary_erosion(item.mask)
    return _pixels(scene)[inner if inner.sum() > 8 else item.mask].mean(axis=0)


def test_scenes_are_the_same_with_every_version_of_the_libraries(
    scenes: list[Scene],
) -> None:
    """Fonts, photographs and random numbers: the digest was taken with the newest."""
    digest = hashlib.sha256()
    for scene in scenes[:60]:
        digest.update(scene.image.tobytes() + scene.mask.tobytes())
        digest.update(f"{scene.caption} {scene.questions}".encode())
    assert digest.hexdigest()[:16] == "4c36359e2a15fbe1"


def test_everything_is_drawn(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    assert {item.character for item in objects} == set(CHARACTERS)
    assert {item.colour for item in objects} == set(COLOURS)
    assert {item.size for item in objects} == set(SIZES)
    assert {item.font for item in objects} == set(FONTS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    for item in objects:
        low, high = HEIGHT_RANGES[item.size]
        assert low <= item.height <= high
        assert abs(item.rotation) <= MAX_ROTATION
        # Turned, a wide one gets higher.
        rows = np.nonzero(item.mask.any(axis=1))[0]
        columns = np.nonzero(item.mask.any(axis=0))[0]
        taller = MAX_ROTATION * np.ptp(columns)
        assert item.height - 2 <= np.ptp(rows) + 1 <= item.height + taller + 2


def test_names_are_unambiguous(scenes: list[Scene]) -> None:
    for scene in scenes:
        for values in (
            {item.colour for item in scene.objects},
            {item.character for item in scene.objects},
        ):
            assert len(values) == len(scene.objects)


def test_masks_are_what_redrawing_without_a_character_changes(
    scenes: list[Scene],
) -> None:
    """The share of a pixel that it covers is the share of its colour there."""
    for scene in scenes[:60]:
        whole = _pixels(scene)
        for index, item in enumerate(scene.objects):
            without = np.asarray(scene.image_without(index)).astype(float)
            towards = _inner_colour(scene, item) - without
            share = ((whole - without) * towards).sum(-1) / (towards**2).sum(-1)
            # Pixel noise makes the share uncertain.
            assert item.mask[share > 0.6].all()
            assert not item.mask[share < 0.4].any()
            changed = (whole != without).any(-1)
            assert changed[item.mask].mean() > 0.99
            assert not changed[~binary_dilation(item.mask, iterations=3)].any()


def test_characters_do_not_touch(scenes: list[Scene]) -> None:
    for scene in scenes:
        around = [binary_dilation(item.mask).astype(int) for item in scene.objects]
        assert sum(around).max() == 1
        union = sum(item.mask.astype(int) for item in scene.objects)
        assert np.array_equal(scene.mask, union == 1)
        border = np.ones_like(scene.mask)
        border[1:-1, 1:-1] = False
        assert not (scene.mask & border).any()


def test_pixels_have_the_named_colour(scenes: list[Scene]) -> None:
    values = np.array(list(COLOUR_VALUES.values()))
    for scene in scenes:
        for item in scene.objects:
            found = _inner_colour(scene, item)
            # Noise above 255 is cut off, and a thin stroke has hardly any inside.
            slack = COLOUR_JITTER + PIXEL_NOISE
            assert (abs(found - COLOUR_VALUES[item.colour]) <= slack).all()
            nearest = np.linalg.norm(values - found, axis=1).argmin()
            assert list(COLOUR_VALUES)[nearest] == item.colour


def test_characters_stand_out_from_what_is_around_them(scenes: list[Scene]) -> None:
    """By the contrast ratio of WCAG, 1 for the same brightness."""
    ratios = []
    for scene in scenes:
        taken = binary_dilation(scene.mask, iterations=2)
        for item in scene.objects:
            around = binary_dilation(item.mask, iterations=5) & ~taken
            background = _luminance(_pixels(scene)[around].mean(axis=0))
            character = _luminance(_inner_colour(scene, item))
            ratios.append((character + 0.05) / (background + 0.05))
    assert min(ratios) > 2.2
    assert np.mean(np.array(ratios) > 3) > 0.9


def _luminance(colour: np.ndarray) -> float:
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
