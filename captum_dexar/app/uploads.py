"""What a visitor may send, and images read within these limits."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# Others are not tried: some of Pillow's readers start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MEBI, _MILLION = 2**20, 10**6


class VisitorError(Exception):
    """What a visitor did can't be done; the message is shown on the page."""


@dataclass(frozen=True)
class Limits:
    """The largest inputs that are accepted.

    Attributes:
        image_bytes (int): size of an image file
        image_pixels (int): pixels of an image, before it is decoded
        prompt_characters (int): length of a question
        new_tokens (int): tokens of an answer
    """

    image_bytes: int = 20 * _MEBI
    image_pixels: int = 40 * _MILLION
    prompt_characters: int = 4000
    new_tokens: int = 256


def read_image(path: Path, limits: Limits) -> Image.Image:
    """The image in a file, decoded.

    Args:
        path (Path): an uploaded file
        limits (Limits): what is accepted

    Raises:
        VisitorError: the file is too large, no image, damaged, or of another format.
    """
    try:
        if path.stat().st_size > limits.image_bytes:
            raise VisitorError(
                f"The image file is too large: {path.stat().st_size / _MEBI:.1f} MB. "
                f"At most {limits.image_bytes / _MEBI:g} MB are accepted."
            )
        content = path.read_bytes()
    except OSError:
        raise VisitorError("The image is no longer here. Choose it again.") from None
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > limits.image_pixels:
            raise VisitorError(
                f"The image is too large: {image.width} x {image.height} pixels. At "
                f"most {limits.image_pixels / _MILLION:g} million pixels are accepted."
            )
        image.load()
    except UnidentifiedImageError:
        raise VisitorError(
            f"This file is not an image that can be read. Use {', '.join(FORMATS)}."
        ) from None
    except Image.DecompressionBombError:
        raise VisitorError(
            "The image is too large. At most "
            f"{limits.image_pixels / _MILLION:g} million pixels are accepted."
        ) from None
    except (MemoryError, VisitorError):
        raise
    except Exception as error:  # decoders raise many types for damaged files
        raise VisitorError(f"The image file is damaged: {error}.") from None
    return image


def checked_prompt(prompt: object, limits: Limits) -> str:
    """A question that may be asked; raises VisitorError."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise VisitorError("Write a question about the image.")
    if len(prompt) > limits.prompt_characters:
        raise VisitorError(
            f"The question is too long: {len(prompt)} characters. At most "
            f"{limits.prompt_characters} are accepted."
        )
    return prompt


def checked_length(number: object, limits: Limits) -> int:
    """The number of tokens that an answer may have; raises VisitorError."""
    # Booleans are integers in Python.
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not 1 <= number <= limits.new_tokens:  # type: ignore[operator]
        raise VisitorError(
            f"The length of the answer must be between 1 and {limits.new_tokens} "
            "tokens."
        )
    return int(number)  # type: ignore[call-overload,no-any-return]
