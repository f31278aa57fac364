"""Image files of all sizes and modes, and files that no image can be read from."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from captum_dexar.app.uploads import Limits
from captum_dexar.shapes import make_scene
from PIL import Image

_LARGEST_SIDE = 900
_PHOTO = (4000, 3000)
_ORIENTATION = 0x0112
LIMITS = Limits()


@dataclass(frozen=True)
class File:
    """What a user uploads.

    Attributes:
        name (str): of the file
        content (bytes): the file
        refusal (str): what the page has to say; empty if it has to answer
    """

    name: str
    content: bytes
    refusal: str = ""


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return _encoded(image, "JPEG", exif=exif)


def _moving(image: Image.Image) -> bytes:
    others = [image.rotate(90), image.rotate(180)]
    return _encoded(image, "GIF", save_all=True, append_images=others)


def _see_through(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


_KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "rgb.png": lambda image: _encoded(image, "PNG"),
    "alpha.png": lambda image: _encoded(_see_through(image), "PNG"),
    "grey.png": lambda image: _encoded(image.convert("L"), "PNG"),
    "grey-alpha.png": lambda image: _encoded(_see_through(image).convert("LA"), "PNG"),
    "palette.png": lambda image: _encoded(image.convert("P"), "PNG", transparency=0),
    "bits.png": lambda image: _encoded(image.convert("1"), "PNG"),
    "deep.png": lambda image: _encoded(image.convert("I;16"), "PNG"),
    "photo.jpg": lambda image: _encoded(image, "JPEG"),
    "turned.jpg": _turned,
    "print.jpg": lambda image: _encoded(image.convert("CMYK"), "JPEG"),
    "web.webp": lambda image: _encoded(image, "WEBP"),
    "moving.gif": _moving,
    "plain.bmp": lambda image: _encoded(image, "BMP"),
    "scan.tiff": lambda image: _encoded(image, "TIFF"),
}


def pictures(number: int) -> list[File]:
    """Drawn scenes as image files, every kind in turn, no two of the same content."""
    rng = random.Random(0)
    files = []
    for index in range(number):
        kind = list(_KINDS)[index % len(_KINDS)]
        size = (rng.randint(8, _LARGEST_SIDE), rng.randint(8, _LARGEST_SIDE))
        image = make_scene(index).image.resize(_PHOTO if index % 28 == 7 else size)
        files.append(File(f"{index}-{kind}", _KINDS[kind](image)))
    return files


def bad_files() -> list[File]:
    """Files of which the page says what is wrong."""
    image = make_scene(0).image.resize((300, 200))
    whole, photo = _encoded(image, "PNG"), _encoded(image, "JPEG")
    bomb = bytearray(_encoded(Image.new("1", (8, 8)), "BMP"))
    bomb[18:26] = (20_000).to_bytes(4, "little") * 2
    wide = Image.new("1", (7000, 6000))
    no_image = "This file is not an image that can be read."
    return [
        File("half.png", whole[: len(whole) // 2], "The image file is damaged"),
        File("half.jpg", photo[: len(photo) // 2], "The image file is damaged"),
        File("page.png", b"<script>alert(1)</script>", no_image),
        File("empty.png", b"", no_image),
        File("letter.png", _encoded(image, "EPS"), no_image),
        File("bomb.bmp", bytes(bomb), "The image is too large"),
        File("wide.png", _encoded(wide, "PNG"), "The image is too large: 7000 x 6000"),
    ]


def too_large() -> bytes:
    """More bytes than are accepted."""
    return bytes(LIMITS.image_bytes + 1)
