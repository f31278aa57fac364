"""Uploads are read within limits, and what is wrong is said in words."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captum_dexar.app.uploads import (
    checked_length,
    checked_prompt,
    Limits,
    read_image,
    VisitorError,
)
from PIL import Image

LIMITS = Limits(
    image_bytes=20_000, image_pixels=5_000, prompt_characters=10, new_tokens=8
)


def file_of(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"])
def test_images_are_read(format: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(file_of(noise(60, 40), format))
    read = read_image(path, LIMITS)
    path.unlink()
    assert read.size == (60, 40)
    with Image.open(io.BytesIO(file_of(noise(60, 40), format))) as expected:
        assert read.convert("RGB").tobytes() == expected.convert("RGB").tobytes()


PNG = file_of(noise(60, 40), "PNG")
REFUSED = {
    "too large: 0.1 MB. At most 0.019": file_of(noise(200, 200), "BMP"),
    "too large: 71 x 71 pixels. At most 0.005": file_of(
        Image.new("1", (71, 71)), "PNG"
    ),
    "damaged": PNG[: len(PNG) // 2],
    "not an image": b"<script>alert(1)</script>",
    "not an image that can be read. Use PNG, JPEG": file_of(noise(9, 9), "EPS"),
    "not an image that": b"",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_others_are_refused(reason: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(REFUSED[reason])
    with pytest.raises(VisitorError, match=reason):
        read_image(path, LIMITS)


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    # 400 million pixels, of which the file says nothing but how many.
    header = bytearray(file_of(Image.new("1", (8, 8)), "BMP"))
    header[18:26] = (20_000).to_bytes(4, "little") * 2
    path = tmp_path / "bomb.bmp"
    path.write_bytes(header)
    with pytest.raises(VisitorError, match="The image is too large"):
        read_image(path, LIMITS)


def test_a_deleted_file(tmp_path: Path) -> None:
    with pytest.raises(VisitorError, match="Choose it again"):
        read_image(tmp_path / "none.png", LIMITS)


@pytest.mark.parametrize("prompt", [None, 3, "", " \n", "a" * 11, ["a"]])
def test_questions_are_checked(prompt: Any) -> None:
    assert checked_prompt("a" * 10, LIMITS) == "a" * 10
    with pytest.raises(VisitorError, match="question"):
        checked_prompt(prompt, LIMITS)


@pytest.mark.parametrize("number", [None, "3", True, 0, 9, -1, float("nan"), 1e99])
def test_lengths_are_checked(number: Any) -> None:
    assert checked_length(8.0, LIMITS) == 8
    with pytest.raises(VisitorError, match="between 1 and 8 tokens"):
        checked_length(number, LIMITS)
