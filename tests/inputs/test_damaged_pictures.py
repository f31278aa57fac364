"""Files that are damaged, of no image or of a program, wherever images are read.

One type of error each, in words that name the file or say what to do.
"""

import io
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captum_dexar.app.uploads import Limits, read_image, VisitorError
from captum_dexar.cli import main
from captum_dexar.evaluation import DamagedSample
from captum_dexar.evaluation.datasets.folder_dataset import loaded
from captum_dexar.inputs.pictures import picture_of
from PIL import Image

RGB = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
)
# Where images are read, and the one error that each raises.
READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "in Python": (picture_of, ValueError),
    "in the app": (lambda path: read_image(path, Limits()), VisitorError),
    "in a dataset": (lambda path: loaded("sample", path), DamagedSample),
}


def encoded(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    RGB.convert(mode).save(file, kind)
    return file.getvalue()


def stated(kind: str, place: int, value: bytes, mode: str = "RGB") -> bytes:
    content = bytearray(encoded(kind, mode))
    content[place : place + len(value)] = value
    return bytes(content)


# 400 million pixels, of which the file says nothing but how many.
BOMB = stated("BMP", 18, (20_000).to_bytes(4, "little") * 2)
# By what is wrong: the file, and what is said in Python, in the app and in a dataset.
FILES: dict[str, tuple[bytes, str, str, str]] = {
    "nothing": (b"", "nothing that Pillow", "not an image", "can't be read"),
    "a page": (b"<html>", "nothing that Pillow", "not an image", "can't be read"),
    "an SVG": (b"<svg/>", "nothing that Pillow", "not an image", "can't be read"),
    "a pickle": (b"\x80\x04.", "nothing that Pillow", "not an image", "can't be read"),
    "a bomb": (BOMB, "MAX_IMAGE_PIXELS", "too large", "decompression bomb"),
    "an EPS": (encoded("EPS"), "convert it to PNG", "Use PNG", "is a program"),
    "a PNG's beginning": (
        encoded("PNG")[:200],
        "damaged or incomplete",
        "damaged",
        "can't be read",
    ),
    "a JPEG's beginning": (
        encoded("JPEG")[:900],
        "damaged or incomplete",
        "damaged",
        "can't be read",
    ),
    "a GIF's beginning": (
        encoded("GIF")[:900],
        "damaged or incomplete",
        "damaged",
        "can't be read",
    ),
    "a BMP's beginning": (
        encoded("BMP")[:900],
        "damaged or incomplete",
        "damaged",
        "can't be read",
    ),
    "a WebP's beginning": (
        encoded("WEBP")[:100],
        "damaged or incomplete|nothing that Pillow",
        "damaged|not an image",
        "can't be read",
    ),
    "a TIFF's beginning": (
        encoded("TIFF")[:900],
        "damaged or incomplete|nothing that Pillow|image",
        "damaged|not an image",
        "can't be read",
    ),
    "a PNG of wrong sums": (
        stated("PNG", 50, b"\xff\xff"),
        "damaged or incomplete",
        "damaged",
        "can't be read",
    ),
    "a PNG of no width": (
        stated("PNG", 16, bytes(4)),
        "nothing that Pillow|damaged|no pixel",
        "damaged|not an image|no pixel",
        "can't be read",
    ),
}
CASES = [(name, reader) for name in FILES for reader in READERS]


@pytest.mark.parametrize(
    ("name", "reader"), CASES, ids=[" ".join(case) for case in CASES]
)
def test_one_error_in_words(tmp_path: Path, name: str, reader: str) -> None:
    path = tmp_path / "image.png"
    content, *words = FILES[name]
    path.write_bytes(content)
    read, error = READERS[reader]
    with pytest.raises(error, match=words[list(READERS).index(reader)]) as raised:
        read(path)
    assert type(raised.value) is error


@pytest.mark.parametrize("name", FILES)
def test_the_command_line_says_the_same(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(FILES[name][0])
    with pytest.raises(ValueError) as raised:
        picture_of(path)
    arguments = ["--model", "none", "--image", str(path), "--prompt", "what ?"]
    assert main(["explain", *arguments, "--out", str(tmp_path / "never")]) == 2
    printed = capsys.readouterr().err
    assert printed == f"captum-dexar: --image: {raised.value}\n"


@pytest.mark.parametrize("name", ["a PNG's beginning", "a PNG of wrong sums"])
def test_an_image_that_is_open_already(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(FILES[name][0])
    with Image.open(path) as image:
        with pytest.raises(ValueError, match="The image is damaged or incomplete"):
            picture_of(image)


def damaged() -> Iterator[bytes]:
    """Images of many kinds with bytes that differ, or an end that is missing."""
    generator = random.Random(0)
    kinds = [("PNG", "P"), ("TIFF", "F"), ("GIF", "P"), ("DDS", "RGB"), ("PCX", "L")]
    kinds += [(kind, "RGB") for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "SGI")]
    whole = [encoded(*kind) for kind in kinds]
    while True:
        content = bytearray(generator.choice(whole))
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        for _ in range(generator.randint(1, 6)):
            if content:
                place = generator.randrange(min(len(content), 300))
                content[place] = generator.randrange(256)
        yield bytes(content)


@pytest.mark.filterwarnings("ignore")
def test_files_damaged_at_random_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    counts: dict[Any, int] = dict.fromkeys((True, False), 0)
    for content in islice(damaged(), 300):
        path.write_bytes(content)
        for read, error in READERS.values():
            try:
                read(path)
                counts[True] += 1
            except error:
                counts[False] += 1
    assert min(counts.values()) > 100
