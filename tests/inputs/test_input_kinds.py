"""Everything that VLMAttribution takes as input gives the same attributions."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.maps.image_tokens import ImageTokenInput
from PIL import Image
from tests.helpers.processors import CROP, llava_processor
from tests.helpers.tiny_models import NUM_IMAGE_TOKENS, tiny_vlm
from torch import nn
from transformers import LlavaProcessor

PROMPT = "USER: <image>\nwhat is in the image ? ASSISTANT:"
TARGET = [40, 41, 42]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_vlm()


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return llava_processor(CROP)


def noise_image() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (40, 60, 3)).astype(np.uint8))


def mask_input(image: Image.Image, processor: LlavaProcessor) -> ImageMaskInput:
    """Captum's own input, whose two features are the image's halves."""
    mask = torch.zeros(image.height, image.width, dtype=torch.int32)
    mask[:, image.width // 2 :] = 1

    def make_inputs(image: Image.Image) -> Any:
        return processor(images=image, text=PROMPT, return_tensors="pt")

    return ImageMaskInput(image, mask=mask, processor_fn=make_inputs)


def test_all_kinds_of_input_give_the_same_attributions(
    model: nn.Module, processor: LlavaProcessor
) -> None:
    image = noise_image()
    dexar = VLMAttribution(LayerDexAR(model), processor)
    reference = dexar.attribute(ImagePromptInput(image, PROMPT, processor), TARGET)
    assert reference.token_attr.amax(1).min() > 0
    assert reference.seq_attr.max() > 0
    assert reference.token_attr.shape == (len(TARGET), NUM_IMAGE_TOKENS)
    made = processor(images=image, text=PROMPT, return_tensors="pt")
    for inp in (
        ImagePromptInput(image, PROMPT, processor, model),
        mask_input(image, processor),
        made,
        dict(made),
        {**made, "token_type_ids": None},
    ):
        result = dexar.attribute(inp, TARGET)
        assert torch.equal(result.token_attr, reference.token_attr)
        assert torch.equal(result.seq_attr, reference.seq_attr)
        assert result.input_tokens == reference.input_tokens
        assert result.output_tokens == reference.output_tokens


def test_boxes_are_known_where_the_original_image_is(
    model: nn.Module, processor: LlavaProcessor
) -> None:
    image = noise_image()
    dexar = VLMAttribution(LayerDexAR(model), processor)
    prompted = ImagePromptInput(image, PROMPT, processor)
    boxes = prompted.layout.boxes()
    assert boxes is not None
    result = dexar.attribute(prompted, TARGET)
    masked = dexar.attribute(mask_input(image, processor), TARGET)
    for known in (result, masked):
        assert known.boxes is not None
        assert torch.equal(known.boxes, boxes)
        assert known.image is not None
        assert known.image.tobytes() == image.tobytes()
        assert known.pixel_map().shape == (40, 60)
    mapping = processor(images=image, text=PROMPT, return_tensors="pt")
    unknown = dexar.attribute(mapping, TARGET)
    assert unknown.boxes is None and unknown.image is None
    with pytest.raises(ValueError, match="not known"):
        unknown.pixel_map()
    without_processor = VLMAttribution(LayerDexAR(model))
    assert (
        without_processor.attribute(mask_input(image, processor), TARGET).boxes is None
    )


def test_columns_of_the_result_are_features_of_its_input(
    model: nn.Module, processor: LlavaProcessor
) -> None:
    """Whatever features the user's own input has."""
    dexar = VLMAttribution(LayerDexAR(model), processor)
    result = dexar.attribute(mask_input(noise_image(), processor), TARGET)
    assert isinstance(result.inp, ImageTokenInput)
    assert result.inp.n_itp_features == NUM_IMAGE_TOKENS
    assert result.inp.values == result.input_tokens
    painted = result.inp.format_pixel_attr(result.token_attr[:1])
    assert painted.shape == (1, 40, 60)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_captums_input_of_any_mode_is_pictured(
    model: nn.Module, processor: LlavaProcessor, mode: str
) -> None:
    image = noise_image().convert(mode)
    dexar = VLMAttribution(LayerDexAR(model), processor)
    result = dexar.attribute(mask_input(image, processor), TARGET)
    assert result.image is not None
    assert result.image.tobytes() == image.convert("RGB").tobytes()


def test_captums_input_is_pictured_as_the_model_saw_it(
    model: nn.Module, processor: LlavaProcessor
) -> None:
    """The processor does not turn an image as its EXIF tag says, so neither may we."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    noise_image().save(file, format="PNG", exif=exif)
    sideways = Image.open(file)
    dexar = VLMAttribution(LayerDexAR(model), processor)
    result = dexar.attribute(mask_input(sideways, processor), TARGET)
    plain = dexar.attribute(mask_input(noise_image(), processor), TARGET)
    assert torch.equal(result.token_attr, plain.token_attr)
    assert result.layout == plain.layout
    assert result.image is not None
    assert result.image.tobytes() == noise_image().tobytes()


def test_a_class_token_is_reported_apart() -> None:
    model: Any = tiny_vlm()
    model.config.vision_feature_select_strategy = "full"
    processor = llava_processor(CROP, strategy="full")
    inp = ImagePromptInput(noise_image(), PROMPT, processor, model)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, TARGET)
    assert result.token_attr.shape == (len(TARGET), NUM_IMAGE_TOKENS)
    assert result.placeless_attr.shape == (len(TARGET), 1)
    assert result.placeless_attr.max() > 0
    assert result.token_maps.shape == (len(TARGET), 4, 4)
    picture = LayerDexAR(model).attribute(
        inp.to_model_input()["pixel_values"],
        TARGET[0],
        (inp.to_model_input()["input_ids"],),
        normalize=False,
    )
    assert isinstance(picture, torch.Tensor)
    torch.testing.assert_close(picture.flatten(), result.token_attr[0])
