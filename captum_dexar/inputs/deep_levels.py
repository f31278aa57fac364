"""Levels of more than 8 bits, scaled to 8 as the image's file says."""

import numpy as np
from PIL import Image

# Modes of Pillow with 16 or 32 bits per pixel begin with these letters.
HAS_DEEP_LEVELS = ("I", "F")

_BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE = 258, 281, 341  # tags of TIFF
# Pillow scales levels of these formats to 16 bits, whatever their depth.
_SCALED_FORMATS = ("PPM", "JPEG2000")
# Cameras and scanners store 10, 12 or 14 bits in 16.
_FEWER_BITS = 14
_SIXTEEN_BITS = 65535


def eight_bit(image: Image.Image, described_by: Image.Image) -> Image.Image:
    """The image with grey levels of 0 to 255, mode L.

    White is what the file states (a TIFF's largest sample value or bits per sample).
    Where it states nothing, levels up to 255 are taken as they are, as by processors,
    which clip the levels above; levels that need 15 or 16 bits are divided by 257.

    Args:
        image (PIL.Image.Image): an image of mode F, I or I;16
        described_by (PIL.Image.Image): the same image as it was opened

    Raises:
        ValueError: White is not known, or levels lie outside the range.
    """
    levels = np.asarray(image).astype(np.float64)
    low, high = levels.min(), levels.max()
    white = _stated_white(described_by)
    if white is None:
        white = _assumed_white(image.mode, levels)
    # Also true for NaN.
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"The image's levels, {low:g} to {high:g}, are not between 0 (black) and "
            f"{white:g} (white). {_advice('(levels - black) / (white - black) * 255')}"
        )
    return Image.fromarray(np.rint(levels * (255 / white)).astype(np.uint8))


def stores_sixteen_bits(image: Image.Image) -> bool:
    """Whether a colour image's file has 16 bits per channel.

    Pillow keeps the upper 8 of them. Of a PNG this is known only until it is loaded.
    """
    if image.mode.startswith(HAS_DEEP_LEVELS):
        return False
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
    packings = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return int(np.max(bits)) == 16 or any(";16" in packing for packing in packings)


def check_colour_depth(image: Image.Image) -> None:
    """Raises ValueError if the upper 8 bits of 16 may be less than what was meant."""
    high = int(np.asarray(image.convert("RGB")).max())
    if 0 < high < 2 ** (_FEWER_BITS - 8):
        raise ValueError(
            "The image's file has 16 bits per channel, of which Pillow keeps the upper "
            f"8, and these end at {high} of 255: it may be a dark image or have only "
            "10, 12 or 14 bits, and its file does not say which. Read it with a "
            "library that keeps all bits, and pass an array of uint8."
        )


def _stated_white(image: Image.Image) -> float | None:
    """The level of white that the image's file states, if it does."""
    tags = getattr(image, "tag_v2", {})
    for tag in (_S_MAX_SAMPLE, _MAX_SAMPLE):
        if tag in tags:
            return float(np.max(tags[tag]))
    bits = int(np.max(tags.get(_BITS_PER_SAMPLE, 16)))
    if bits < 16:
        return float(2**bits - 1)
    return float(_SIXTEEN_BITS) if image.format in _SCALED_FORMATS else None


def _assumed_white(mode: str, levels: np.ndarray) -> float:
    """The level of white of an image whose file says nothing of it."""
    high = levels.max()
    if mode == "F" and not (high > 1 and bool((levels == levels.round()).all())):
        raise ValueError(
            f"The image has floating point pixels of unknown range, here {levels.min()}"
            f" to {high}. {_advice('levels * 255')}"
        )
    if high <= 255:
        return 255.0
    if high < 2**_FEWER_BITS:
        bits = max(10, int(high).bit_length())
        raise ValueError(
            f"The image has more than 8 bits, but its levels end at {high:g}: it may "
            f"have {bits} bits ({2**bits - 1} is white) or be a dark one of 16, and "
            f"its file does not say which. {_advice(f'levels * (255 / {2**bits - 1})')}"
        )
    return float(_SIXTEEN_BITS)


def _advice(scaled: str) -> str:
    return (
        "Scale them yourself: levels = numpy.asarray(image), then "
        f"PIL.Image.fromarray(({scaled}).astype('uint8'))."
    )
