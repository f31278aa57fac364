"""An image of any mode gives the pixels that the model's own processor makes of it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput
from PIL import Image, ImageOps
from tests.helpers.every_processor import model_needed, PROCESSORS
from tests.helpers.processors import CROP, llava_processor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

QUESTION = "what is in the image ?"


def noise(channels: int = 4) -> Image.Image:
    """Noise of every opacity."""
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (40, 60, channels))
    return Image.fromarray(levels.astype(np.uint8))


def palette() -> Image.Image:
    return noise(3).quantize(16)


def transparent_palette() -> Image.Image:
    image = palette()
    image.info["transparency"] = image.getpixel((30, 20))
    return image


def transparent_colour() -> Image.Image:
    image = noise(3)
    image.info["transparency"] = image.getpixel((30, 20))
    return image


def palette_with_alpha() -> Image.Image:
    image = palette().convert("PA")
    image.putalpha(noise().getchannel("A"))
    return image


def opaque() -> Image.Image:
    image = noise()
    image.putalpha(255)
    return image


def integers(mode: str, dtype: str) -> Image.Image:
    levels = np.asarray(noise().convert("L")).astype(dtype)
    return Image.frombytes(mode, (60, 40), levels.tobytes())


# Those with transparent pixels first, of which processors make different things.
TRANSPARENT: dict[str, Callable[[], Image.Image]] = {
    "LA": lambda: noise().convert("LA"),
    "P, a transparent colour": transparent_palette,
    "PA": palette_with_alpha,
    "RGB, a transparent colour": transparent_colour,
    "RGBA": noise,
    "RGBa": lambda: noise().convert("RGBa"),
}
OPAQUE: dict[str, Callable[[], Image.Image]] = {
    "1": lambda: noise().convert("1"),
    "L": lambda: noise().convert("L"),
    "P": palette,
    "RGB": lambda: noise(3),
    "RGBA, opaque": opaque,
    "RGBX": lambda: noise().convert("RGBX"),
    "CMYK": lambda: noise(3).convert("CMYK"),
    "YCbCr": lambda: noise(3).convert("YCbCr"),
    "LAB": lambda: Image.frombytes("LAB", (60, 40), noise(3).tobytes()),
    "HSV": lambda: noise(3).convert("HSV"),
    "I": lambda: integers("I", "<i4"),
    "I;16": lambda: integers("I;16", "<u2"),
    "I;16B": lambda: integers("I;16B", ">u2"),
    "F": lambda: integers("F", "<f4"),
}
MODES = {**TRANSPARENT, **OPAQUE}

# These prepare images with the class of another one.
SAME_IMAGES = ("smolvlm", "aya_vision", "qwen3_vl", "glm46v")
NAMES = [name for name in PROCESSORS if name not in SAME_IMAGES]


@cache
def made(name: str) -> tuple[Any, Any]:
    return PROCESSORS[name](), model_needed(name)


def own_inputs(name: str, processor: Any, images: Any, prompt: str) -> dict[str, Any]:
    """What the processor itself makes, without our families' adapters."""
    options = {"return_legacy_image_output": False} if name == "fuyu" else {}
    inputs = processor(images=images, text=prompt, return_tensors="pt", **options)
    inputs.pop("labels", None)
    return dict(inputs)


def assert_equal(inputs: Any, expected: Any) -> None:
    assert inputs.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, list):
            value, inputs[name] = torch.tensor(value), torch.tensor(inputs[name])
        torch.testing.assert_close(inputs[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_the_processor(name: str, mode: str) -> None:
    processor, model = made(name)
    image = MODES[mode]()
    if name == "fuyu" and mode in TRANSPARENT and not mode.startswith("RGB,"):
        # It converts nothing, so that four channels go into its patches.
        with pytest.raises(ValueError, match="drop the transparency"):
            ImagePromptInput(image, QUESTION, processor, model)
        return
    inp = ImagePromptInput(image, QUESTION, processor, model)
    takes = name != "fuyu" or len(image.getbands()) == 3
    seen = image if takes else image.convert("RGB")
    expected = own_inputs(name, processor, seen, inp.prompt)
    assert_equal(inp.to_model_input(), expected)
    if mode in OPAQUE:
        return
    # What is painted is the same picture.
    present = inp.to_tensor()
    assert_equal(inp.to_model_input(present), expected)
    present[0, 0] = 0
    pixels = np.array(inp.image)
    pixels[inp.get_mask_list()[0].numpy()] = 255
    painted = own_inputs(name, processor, Image.fromarray(pixels), inp.prompt)
    assert_equal(inp.to_model_input(present), painted)


@pytest.mark.parametrize("mode", ["LA", "P, a transparent colour", "PA", "RGBA"])
def test_transparent_pixels_without_a_background(mode: str) -> None:
    """A processor that converts nothing takes three channels only."""
    processor = llava_processor({**CROP, "do_convert_rgb": False})
    with pytest.raises(ValueError, match="drop the transparency"):
        ImagePromptInput(TRANSPARENT[mode](), QUESTION, processor)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGB, a transparent colour", "RGB"])
def test_channels_that_are_taken_for_colours(mode: str) -> None:
    processor = llava_processor({**CROP, "do_convert_rgb": False})
    image = MODES[mode]()
    inp = ImagePromptInput(image, QUESTION, processor)
    expected = own_inputs("llava", processor, image, inp.prompt)
    assert_equal(inp.to_model_input(), expected)
    assert np.array_equal(np.asarray(inp.image), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA, opaque", "CMYK"])
def test_other_modes_are_converted_where_the_processor_does_not(mode: str) -> None:
    processor = llava_processor({**CROP, "do_convert_rgb": False})
    image = MODES[mode]()
    inp = ImagePromptInput(image, QUESTION, processor)
    assert inp.image.tobytes() == image.convert("RGB").tobytes()


def test_several_images_of_different_modes() -> None:
    processor = llava_processor(CROP)
    images = [TRANSPARENT["RGBA"](), OPAQUE["L"](), OPAQUE["RGB"]()]
    inp = ImagePromptInput(images, QUESTION, processor)
    expected = own_inputs("llava", processor, images, inp.prompt)
    assert_equal(inp.to_model_input(), expected)


def test_a_mode_that_pillow_does_not_convert() -> None:
    image = noise().convert("LA").convert("La")
    with pytest.raises(ValueError, match="can't convert an image of mode La"):
        ImagePromptInput(image, QUESTION, llava_processor(CROP))


class OnChecks(LlavaImageProcessorPil):
    """Shows a chequered pattern behind transparent pixels."""

    def process_image(self, image: Any, *args: Any, **options: Any) -> Any:
        if getattr(image, "mode", None) == "RGBA":
            rows, columns = np.indices((image.height, image.width)) // 8
            grey = np.where((rows + columns) % 2, 153, 204).astype(np.uint8)
            behind = Image.fromarray(grey).convert("RGBA")
            image = Image.alpha_composite(behind, image).convert("RGB")
        return super().process_image(image, *args, **options)


class Inverting(LlavaImageProcessorPil):
    """Inverts whatever is not RGB, before it is converted."""

    def preprocess(self, images: Any, *args: Any, **options: Any) -> Any:
        given = images if isinstance(images, list) else [images]
        inverted = [
            one if one.mode == "RGB" else ImageOps.invert(one.convert("RGB"))
            for one in given
        ]
        return super().preprocess(inverted, *args, **options)


def test_a_processor_s_own_background_is_found() -> None:
    processor = llava_processor(CROP)
    processor.image_processor = OnChecks(**CROP)
    inp = ImagePromptInput(noise(), QUESTION, processor)
    expected = own_inputs("llava", processor, noise(), inp.prompt)
    assert_equal(inp.to_model_input(), expected)
    on_white = ImagePromptInput(noise(), QUESTION, llava_processor(CROP)).image
    assert inp.image.tobytes() != on_white.tobytes()


def test_a_conversion_that_is_not_found_is_refused() -> None:
    processor = llava_processor(CROP)
    processor.image_processor = Inverting(**CROP)
    with pytest.raises(ValueError, match="mode L is not known"):
        ImagePromptInput(OPAQUE["L"](), QUESTION, processor)


def test_the_error_of_a_prompt_is_not_taken_for_the_modes() -> None:
    processor = llava_processor(CROP, "default", "USER")
    with pytest.raises(ValueError, match="0 <image> tokens|has 0 image tokens"):
        ImagePromptInput(noise(), QUESTION, processor)
