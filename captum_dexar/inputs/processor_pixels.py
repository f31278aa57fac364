"""RGB images from which a processor makes the same pixels as from the given ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WHITE = (255, 255, 255, 255)


def rgb_as_processed(
    images: Sequence[Image.Image],
    process: Callable[[list[Image.Image]], Any],
    image_processor: Any = None,
) -> list[Image.Image]:
    """The images in RGB, converted as the processor itself converts them.

    Processors, and versions of one, differ in what they make of an image that is not
    RGB: transparent pixels become white, or keep the colour that is stored below them;
    without ``do_convert_rgb`` the channels of YCbCr are taken for colours. So several
    conversions are tried, and that is chosen which gives the model's inputs that the
    processor makes of the images themselves.

    Args:
        images (sequence of PIL.Image.Image): images of any mode, 8 bits per channel
        process (Callable): makes the model's inputs of a list of images
        image_processor (BaseImageProcessor, optional): whose own conversion is tried
            first. Default: None

    Raises:
        ValueError: A mode has no conversion, the processor uses none that is known, or
            it takes no transparent image.
    """
    if all(_is_plain(image) for image in images):
        return list(images)
    versions = list(_versions(images, image_processor))
    modes = ", ".join(sorted({image.mode for image in images}))
    if not versions:
        raise ValueError(
            f"Pillow can't convert an image of mode {modes} to RGB. Convert it first."
        )
    # Raises what is wrong with the prompt, for example, rather than with the mode.
    first = process(versions[0])
    try:
        expected = process(list(images))
        is_taken = _shapes(expected) == _shapes(first)
    except Exception:  # processors raise what they like
        is_taken = False
    if not is_taken:
        if any(_has_background(image) for image in images):
            raise ValueError(
                f"The processor takes no image of mode {modes}, so what is behind its "
                "transparent pixels is not known. Paste it on a background, or drop "
                "the transparency: image.convert('RGB')."
            )
        return versions[0]
    for version in versions:
        made = first if version is versions[0] else process(version)
        if _same(made, expected):
            return version
    raise ValueError(
        f"How the processor converts an image of mode {modes} is not known: it makes "
        "other pixels of it than of its RGB versions, so that parts of it can't be "
        "painted over. Convert it first: image.convert('RGB')."
    )


def _is_plain(image: Image.Image) -> bool:
    return image.mode == "RGB" and image.info.get("transparency") is None


def _on_white(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, WHITE)
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def _without_alpha(image: Image.Image) -> Image.Image:
    # A conversion can keep the colour that stands for transparent; an array can't.
    return Image.fromarray(np.asarray(image.convert("RGB")))


def _channels_as_colours(image: Image.Image) -> Image.Image:
    if len(image.getbands()) != 3:
        raise ValueError("not three channels")
    return Image.fromarray(np.asarray(image))


def _by_processor(image: Image.Image, image_processor: Any) -> Image.Image:
    convert = image_processor.do_convert_rgb
    made = image_processor.process_image(image, do_convert_rgb=convert)
    pixels = np.moveaxis(np.asarray(made), 0, -1)
    if pixels.shape != (image.height, image.width, 3) or pixels.dtype != np.uint8:
        raise ValueError("no RGB")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _versions(
    images: Sequence[Image.Image], image_processor: Any
) -> Iterator[list[Image.Image]]:
    """The images by each conversion that is possible, no result twice."""
    seen = set()
    by_processor = partial(_by_processor, image_processor=image_processor)
    for convert in (by_processor, _on_white, _without_alpha, _channels_as_colours):
        try:
            version = [
                image if _is_plain(image) else convert(image) for image in images
            ]
        except Exception:  # Pillow has no such conversion, or processors raise
            continue
        pixels = tuple(image.tobytes() for image in version)
        if pixels not in seen:
            seen.add(pixels)
            yield version


def _has_background(image: Image.Image) -> bool:
    """Whether transparent pixels show what is behind them."""
    if _is_plain(image):
        return False
    try:
        return _on_white(image).tobytes() != _without_alpha(image).tobytes()
    except ValueError:
        return True


def _shapes(made: Any) -> Any:
    """The shapes of model inputs, which differ where channels are not three."""
    if isinstance(made, Mapping):
        return {name: _shapes(value) for name, value in made.items()}
    if isinstance(made, (list, tuple)):
        return [_shapes(value) for value in made]
    return tuple(getattr(made, "shape", ()))


def _same(made: Any, expected: Any) -> bool:
    """Whether two model inputs are equal, whatever they hold."""
    if isinstance(expected, Mapping):
        return made.keys() == expected.keys() and all(
            _same(made[name], expected[name]) for name in expected
        )
    if isinstance(expected, (list, tuple)):
        return len(made) == len(expected) and all(map(_same, made, expected))
    if isinstance(expected, (Tensor, np.ndarray)):
        return torch.equal(torch.as_tensor(made), torch.as_tensor(expected))
    return bool(made == expected)
