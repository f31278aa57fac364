"""Arrays, tensors and paths are taken as images; what has two meanings is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.inputs.pictures import picture_of
from PIL import Image
from tests.helpers.processors import CROP, llava_processor

QUESTION = "what is in the image ?"
LEVELS = np.random.default_rng(0).integers(0, 256, (40, 60, 4)).astype(np.uint8)
RGB = LEVELS[..., :3]
GREY = LEVELS[..., 0]


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 0)


# Kinds of image, and the PIL image that each is the same as.
SAME: dict[str, tuple[Any, np.ndarray]] = {
    "array": (RGB, RGB),
    "array, channels first": (channels_first(RGB), RGB),
    "array, grey": (GREY, GREY),
    "array, one channel": (GREY[..., None], GREY),
    "array, RGBA": (LEVELS, LEVELS),
    "array, read-only": (np.broadcast_to(RGB[:1], RGB.shape), RGB[[0] * 40]),
    "array, float32": ((RGB / 255).astype(np.float32), RGB),
    "array, float64": (RGB / 255, RGB),
    "array, float16": ((RGB / 255).astype(np.float16), RGB),
    "tensor": (torch.tensor(RGB), RGB),
    "tensor, channels first": (torch.tensor(RGB).permute(2, 0, 1), RGB),
    "tensor, grey": (torch.tensor(GREY), GREY),
    "tensor, one channel first": (torch.tensor(GREY)[None], GREY),
    "tensor, RGBA": (torch.tensor(LEVELS).permute(2, 0, 1), LEVELS),
    "tensor, float32": (torch.tensor(RGB).permute(2, 0, 1) / 255, RGB),
    "tensor, with a gradient": ((torch.tensor(RGB) / 255).requires_grad_(), RGB),
}


@pytest.mark.parametrize("kind", SAME)
def test_an_array_is_the_image_of_it(kind: str) -> None:
    given, array = SAME[kind]
    processor = llava_processor(CROP)
    inp = ImagePromptInput(given, QUESTION, processor)
    expected = ImagePromptInput(Image.fromarray(array), QUESTION, processor)
    assert inp.image.tobytes() == expected.image.tobytes()
    assert inp.layout == expected.layout
    made = inp.to_model_input()["pixel_values"]
    assert torch.equal(made, expected.to_model_input()["pixel_values"])


@pytest.mark.parametrize("kind", ["array", "tensor", "tensor, channels first"])
def test_bytes_are_what_the_processor_itself_makes_of_them(kind: str) -> None:
    given, _ = SAME[kind]
    processor = llava_processor(CROP)
    inp = ImagePromptInput(given, QUESTION, processor)
    own = processor(images=given, text=inp.prompt, return_tensors="pt")
    made = inp.to_model_input()
    assert all(torch.equal(made[name], own[name]) for name in own)


def test_bfloat16_keeps_eight_bits() -> None:
    given = torch.tensor(RGB).permute(2, 0, 1).to(torch.bfloat16) / 255
    difference = np.asarray(picture_of(given)).astype(int) - RGB
    assert np.abs(difference).max() <= 1


def test_a_path_is_the_image_in_the_file(tmp_path: Path) -> None:
    processor = llava_processor(CROP)
    path = tmp_path / "cat: a photo.png"
    for image in (Image.fromarray(LEVELS), Image.fromarray(RGB)):
        image.save(path)
        expected = ImagePromptInput(image, QUESTION, processor).to_model_input()
        for given in (path, str(path)):
            made = ImagePromptInput(given, QUESTION, processor).to_model_input()
            assert torch.equal(made["pixel_values"], expected["pixel_values"])
    path.unlink()  # nothing holds it


def test_several_images_of_different_kinds(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.fromarray(RGB).save(path)
    given: Any = [RGB, torch.tensor(RGB), path, Image.fromarray(RGB)]
    inp = ImagePromptInput(given, QUESTION, llava_processor(CROP))
    assert len({image.tobytes() for image in inp.images}) == 1
    assert len(inp.images) == 4


Case = tuple[Callable[[], Any], type[Exception], str]
REFUSED: dict[str, Case] = {
    "an http address": (
        lambda: "http://example.org/cat.png",
        ValueError,
        "the address 'http://example.org/cat.png'.*nothing is downloaded",
    ),
    "an https address": (lambda: "https://example.org", ValueError, "is the address"),
    "a file address": (lambda: "file:///tmp/cat.png", ValueError, "is the address"),
    "another address": (lambda: "s3://bucket/cat.png", ValueError, "is the address"),
    "data": (
        lambda: "data:image/png;base64," + "A" * 9999,
        ValueError,
        r"the address 'data:image/png;base64,A{55}\.\.\.'",
    ),
    "base64": (
        lambda: "iVBORw0KGgo" * 999,
        FileNotFoundError,
        r"no image file 'iVBOR.{72}\.\.\.'",
    ),
    "no file": (lambda: Path("cat.png"), FileNotFoundError, "no image file 'cat.png'"),
    "no image file": (lambda: __file__, ValueError, "nothing that Pillow knows"),
    "floats above 1": (
        lambda: RGB.astype(np.float32),
        ValueError,
        "between 0 and 1, got values from 0 to 255",
    ),
    "floats below 0": (
        lambda: torch.tensor(RGB) / 127.5 - 1,
        ValueError,
        "got values from -1 to 1",
    ),
    "NaN": (lambda: RGB * np.nan, ValueError, "between 0 and 1, got values from nan"),
    "integers": (lambda: RGB.astype(int), TypeError, "must be uint8.*got int64"),
    "16 bits": (lambda: torch.tensor(RGB).short(), TypeError, "got int16"),
    "bool": (lambda: GREY > 9, TypeError, "got bool"),
    "strings": (lambda: RGB.astype(str), TypeError, "must be uint8"),
    "3 x 3 x 3": (
        lambda: RGB[:3, :3],
        ValueError,
        r"Which axis of an image of shape \(3, 3, 3\).*is ambiguous",
    ),
    "4 x 9 x 3": (lambda: RGB[:4, :9], ValueError, r"shape \(4, 9, 3\).*is ambiguous"),
    "two channels": (
        lambda: LEVELS[..., :2],
        ValueError,
        r"1, 3 or 4 channels on its first or last axis, got shape \(40, 60, 2\)",
    ),
    "channels in the middle": (
        lambda: torch.tensor(RGB).permute(0, 2, 1),
        ValueError,
        r"got shape \(40, 3, 60\)",
    ),
    "a batch": (
        lambda: RGB[None],
        ValueError,
        r"one image.*got shape \(1, 40, 60, 3\). Pass several images as a list",
    ),
    "a row": (lambda: GREY[0], ValueError, r"got shape \(60\)"),
    "no pixel": (lambda: RGB[:0], ValueError, r"no pixel: its shape is \(0, 60, 3\)"),
    "numbers": (lambda: [[1, 2]], TypeError, "got list"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_image_is_refused(case: Case) -> None:
    make, error, message = case
    processor = llava_processor(CROP)
    with pytest.raises(error, match=message) as raised:
        ImagePromptInput(make(), QUESTION, processor)
    assert type(raised.value) is error


def test_the_given_array_is_not_changed() -> None:
    for given in (RGB.copy(), torch.tensor(RGB), torch.tensor(RGB) / 255):
        before = given.copy() if isinstance(given, np.ndarray) else given.clone()
        inp = ImagePromptInput(given, QUESTION, llava_processor(CROP))
        inp.to_model_input(torch.zeros(1, inp.n_itp_features))
        assert bool((given == before).all())
