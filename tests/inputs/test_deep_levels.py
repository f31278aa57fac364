"""Levels of more than 8 bits are scaled as the file says, or refused."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from captum_dexar import ImagePromptInput
from captum_dexar.inputs.pictures import picture_of
from PIL import Image
from tests.helpers.processors import CROP, llava_processor

BITS_PER_SAMPLE, MAX_SAMPLE, S_MAX_SAMPLE = 258, 281, 341


def levels(bits: int, channels: tuple[int, ...] = ()) -> np.ndarray:
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 2**bits, (40, 60, *channels))
    drawn.flat[:2] = 0, 2**bits - 1
    return drawn.astype(np.uint16)


def tiff(data: bytes, bits: Sequence[int], **more: tuple[str, float]) -> Image.Image:
    """A TIFF file of 60 x 40 pixels, written here: Pillow writes no 12 bits."""
    entries: dict[int, tuple[str, Sequence[float]]] = {
        256: ("I", [60]),
        257: ("I", [40]),
        BITS_PER_SAMPLE: ("H", bits),
        259: ("H", [1]),
        262: ("H", [2 if len(bits) == 3 else 1]),
        273: ("I", [8]),
        277: ("H", [len(bits)]),
        278: ("I", [40]),
        279: ("I", [len(data)]),
        **{int(tag[1:]): (kind, [value]) for tag, (kind, value) in more.items()},
    }
    start = 8 + len(data)
    behind = start + 2 + 12 * len(entries) + 4
    table, values = struct.pack("<H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        table += struct.pack("<HHI", tag, {"H": 3, "I": 4, "d": 12}[kind], len(numbers))
        if len(packed) <= 4:
            table += packed.ljust(4, b"\0")
        else:
            table += struct.pack("<I", behind + len(values))
            values += packed
    header = b"II*\0" + struct.pack("<I", start)
    return Image.open(io.BytesIO(header + data + table + bytes(4) + values))


def png(colours: np.ndarray) -> Image.Image:
    """A PNG file with 16 bits per channel, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checked

    header = struct.pack(">IIBBBBB", 60, 40, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")))


def twelve_bits_packed(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2).astype(int)
    packed = [(a >> 4, (a & 15) << 4 | b >> 8, b & 255) for a, b in pairs.tolist()]
    return bytes(byte for three in packed for byte in three)


def in_memory(values: np.ndarray, dtype: str) -> Image.Image:
    return Image.fromarray(values.astype(dtype))


TWELVE = levels(12)
STATED: dict[str, Callable[[], Image.Image]] = {
    "12 bits in 12": lambda: tiff(twelve_bits_packed(TWELVE), [12]),
    "the largest value": lambda: tiff(TWELVE.tobytes(), [16], t281=("H", 4095)),
    "the largest value as a float": lambda: tiff(
        TWELVE.tobytes(), [16], t341=("d", 4095.0)
    ),
    "PGM": lambda: Image.open(
        io.BytesIO(b"P5 60 40 4095\n" + TWELVE.astype(">u2").tobytes())
    ),
}


@pytest.mark.parametrize("file", STATED)
def test_levels_are_scaled_as_the_file_says(file: str) -> None:
    expected = np.rint(TWELVE * (255 / 4095))
    image = STATED[file]()
    picture = picture_of(image)
    assert picture.mode == "L"
    # PGM is scaled by Pillow, to 16 bits.
    difference = np.asarray(picture) - expected
    assert np.abs(difference).max() <= (1 if file == "PGM" else 0)
    assert (difference != 0).mean() < 0.01
    inp = ImagePromptInput(image, "what is in the image ?", llava_processor(CROP))
    assert np.array_equal(np.asarray(inp.image)[..., 1], np.asarray(picture))


def test_a_turned_file_is_scaled_too() -> None:
    """A copy, which turning makes, no longer knows what the file said."""
    image = tiff(TWELVE.tobytes(), [16], t281=("H", 4095), t274=("H", 6))
    expected = np.rint(np.rot90(TWELVE, -1) * (255 / 4095))
    assert np.array_equal(np.asarray(picture_of(image)), expected)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_sixteen_bits_and_eight_need_no_statement(dtype: str) -> None:
    sixteen, eight = levels(16), levels(8)
    scaled = np.asarray(picture_of(in_memory(sixteen, dtype)))
    assert np.array_equal(scaled, np.rint(sixteen / 257))
    kept = np.asarray(picture_of(in_memory(eight, dtype)))
    assert np.array_equal(kept, eight)


def test_whole_floating_point_levels_are_kept() -> None:
    kept = np.asarray(picture_of(in_memory(levels(8), "float32")))
    assert np.array_equal(kept, levels(8))


REFUSED: dict[str, tuple[Any, str]] = {
    "10 bits": (lambda: in_memory(levels(10), "uint16"), r"10 bits \(1023 is white\)"),
    "12 bits": (lambda: in_memory(TWELVE, "uint16"), r"12 bits \(4095 is white\)"),
    "12 bits in 32": (lambda: in_memory(TWELVE, "int32"), r"12 bits \(4095 is white\)"),
    "14 bits": (lambda: in_memory(levels(14), "uint16"), r"14 bits \(16383 is white\)"),
    "12 bits in a TIFF": (
        lambda: tiff(TWELVE.tobytes(), [16]),
        r"12 bits \(4095 is white\).*asarray\(image\).*levels \* \(255 / 4095\)",
    ),
    "more than is stated": (
        lambda: tiff(TWELVE.tobytes(), [16], t281=("H", 1023)),
        "0 to 4095, are not between 0 .black. and 1023",
    ),
    "32 bits": (lambda: in_memory(TWELVE * 64.0, "int32"), "0 to 262080, are not"),
    "below zero": (lambda: in_memory(levels(8) - 9.0, "int32"), "-9 to 246, are not"),
    "NaN": (lambda: in_memory(levels(8) * np.nan, "float32"), "floating point pixels"),
    "floats up to 1": (
        lambda: in_memory(levels(8) / 255, "float32"),
        r"floating point pixels of unknown range, here 0.0 to 1.0",
    ),
    "floats up to 2": (
        lambda: in_memory(levels(8) / 127, "float32"),
        "floating point pixels of unknown range",
    ),
    "0 and 1": (lambda: in_memory(levels(1), "float32"), "floating point pixels"),
    "12 bits of a coloured PNG": (
        lambda: png(levels(12, (3,))),
        "upper 8, and these end at 15 of 255",
    ),
    "12 bits of a coloured TIFF": (
        lambda: tiff(levels(12, (3,)).tobytes(), [16] * 3),
        "upper 8, and these end at 15 of 255",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_levels_of_unknown_range_are_refused(case: tuple[Any, str]) -> None:
    make, message = case
    with pytest.raises(ValueError, match=message):
        picture_of(make())


@pytest.mark.parametrize("bits", [0, 15, 16])
def test_other_colours_of_sixteen_bits_are_taken(bits: int) -> None:
    """Black ones, too: there is nothing to scale."""
    colours = np.zeros((40, 60, 3), np.uint16) if bits == 0 else levels(bits, (3,))
    for image in (png(colours), tiff(colours.tobytes(), [16] * 3)):
        assert np.array_equal(np.asarray(picture_of(image)), colours >> 8)
