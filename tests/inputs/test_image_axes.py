"""Images with as many rows as channels: read as they are, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.shapes import load_vlm
from PIL import Image
from tests.helpers import every_processor, slice_processors, square_processors
from tests.helpers.every_processor import model_needed
from tests.helpers.real_families import prompt_of

PROCESSORS: dict[str, Callable[[], Any]] = {
    **every_processor.PROCESSORS,
    **square_processors.PROCESSORS,
    "emu3": slice_processors.emu3_processor,
}
# Their image processors make an array of the image, and look at its shape only.
REFUSED = ("video_llava", "emu3")
ORANGE, BLACK = (250, 120, 10), (0, 0, 0)


def plain(height: int, colour: tuple[int, int, int] = ORANGE) -> Image.Image:
    return Image.new("RGB", (4 * height, height), colour)


def values(inp: ImagePromptInput) -> set[int]:
    """Of all pixels: those of one colour, and of padding, in hundredths."""
    names = {"pixel_values", "pixel_values_images", "image_patches"}
    made = inp.to_model_input()
    (name,) = names & set(made)
    parts = [torch.as_tensor(part).double().flatten() for part in made[name]]
    return set((torch.cat(parts) * 100).round().int().unique().tolist())


@pytest.mark.parametrize("height", [1, 3])
@pytest.mark.parametrize("name", PROCESSORS)
def test_rows_are_not_taken_for_channels(name: str, height: int) -> None:
    processor, model = PROCESSORS[name](), model_needed(name)

    def made(image: Image.Image) -> set[int]:
        text = "is" if model is None else prompt_of(processor, model)
        return values(ImagePromptInput(image, text, processor, model))

    if (name, height) == ("fuyu", 1):
        pytest.skip("its processor makes a single patch, which the model does not take")
    if name in REFUSED:
        with pytest.raises(ValueError):
            made(plain(height))
        return
    padding = {0} | made(plain(height, BLACK))
    assert made(plain(height)) - padding == made(plain(20 * height)) - padding


@pytest.mark.parametrize("name", REFUSED)
def test_the_refused_say_what_to_do(name: str) -> None:
    processor = PROCESSORS[name]()
    with pytest.raises(ValueError, match=r"image.resize\(\(24, 6\)\)"):
        ImagePromptInput(plain(3), "is", processor)
    enlarged = ImagePromptInput(plain(3).resize((24, 6)), "is", processor)
    assert values(enlarged) == values(ImagePromptInput(plain(60), "is", processor))


def test_a_pipeline_of_arrays() -> None:
    """The image processor gets no PIL image, and does not know its axes."""
    model, processor = load_vlm()
    prompt = "USER: <image>\nDescribe it. ASSISTANT:"

    def process(image: Any, **settings: Any) -> Any:
        return processor(
            images=np.asarray(image), text=prompt, return_tensors="pt", **settings
        )

    def told(image: Any) -> Any:
        return process(image, input_data_format="channels_last")

    method = VLMAttribution(LayerDexAR(model), processor)
    thin = plain(3)
    with pytest.raises(ValueError, match="taken the rows for channels"):
        method.attribute(ImageMaskInput(processor_fn=process, image=thin), target=[5])
    given = method.attribute(ImageMaskInput(processor_fn=told, image=thin), target=[5])
    expected = method.attribute(ImagePromptInput(thin, prompt, processor), target=[5])
    torch.testing.assert_close(given.token_attr, expected.token_attr)
    assert torch.equal(given.boxes, expected.boxes)
