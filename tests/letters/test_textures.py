"""Backgrounds are dark, and every photograph is there without a download."""

import numpy as np
import pytest
from captum_dexar.letters.drawing import COLOUR_JITTER, COLOUR_VALUES
from captum_dexar.letters.textures import (
    BRIGHTEST,
    draw_background,
    LUMINANCE,
    PHOTOGRAPHS,
    REDUCTIONS,
    texture,
)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_photographs_are_as_scikit_image_loads_them(photograph: str) -> None:
    from skimage import data

    pixels = np.atleast_3d(getattr(data, photograph)()).astype(float)
    grey = (np.broadcast_to(pixels, (*pixels.shape[:2], 3)) * LUMINANCE).sum(axis=2)
    expected = (grey - grey.mean()) / grey.std()
    found = (texture(photograph, 1) * LUMINANCE).sum(axis=2)
    assert np.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_textures_have_one_brightness_and_contrast(photograph: str) -> None:
    for reduction in REDUCTIONS:
        grey = (texture(photograph, reduction) * LUMINANCE).sum(axis=2)
        assert grey.mean() == pytest.approx(0, abs=1e-4)
        assert grey.std() == pytest.approx(1, abs=1e-4)
    whole, half = texture(photograph, 1), texture(photograph, 2)
    assert half.shape == (whole.shape[0] // 2, whole.shape[1] // 2, 3)


def test_backgrounds_are_darker_than_every_colour() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_background(96, rng) for _ in range(100)])
    assert drawn.shape == (100, 96, 96, 3)
    assert drawn.min() >= 0 and drawn.max() <= BRIGHTEST
    brightest_parts = np.array(list(COLOUR_VALUES.values())).max(axis=1)
    assert brightest_parts.min() - COLOUR_JITTER > 1.9 * BRIGHTEST
    assert len({picture.tobytes() for picture in drawn}) == 100
