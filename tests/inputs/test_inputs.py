"""An image and a prompt, as model inputs with known image tokens."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, LLMAttribution
from captum_dexar import ImagePromptInput
from PIL import Image
from tests.helpers.processors import CROP, llava_processor, STRETCH
from tests.helpers.tiny_models import IMAGE_TOKEN, NUM_IMAGE_TOKENS, tiny_vlm
from torch import Tensor
from transformers import LlavaProcessor

QUESTION = "what is in the image ?"
PROMPT = f"USER: <image>\n{QUESTION} ASSISTANT:"


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return llava_processor(CROP)


def noise(
    height: int = 40, width: int = 60, channels: tuple[int, ...] = (3,)
) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, *channels)).astype(np.uint8)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(noise())


def pixels_of(image: Any, processor: LlavaProcessor) -> Tensor:
    pixels = ImagePromptInput(image, QUESTION, processor).to_model_input()
    assert isinstance(pixels["pixel_values"], Tensor)
    return pixels["pixel_values"]


def test_question_and_written_prompt_are_what_the_processor_makes(
    image: Image.Image, processor: LlavaProcessor
) -> None:
    by_hand = processor(images=image, text=PROMPT, return_tensors="pt")
    for prompt in (QUESTION, PROMPT):
        inp = ImagePromptInput(image, prompt, processor)
        made = inp.to_model_input()
        assert inp.prompt == PROMPT
        assert made.keys() == by_hand.keys()
        assert all(torch.equal(made[key], by_hand[key]) for key in by_hand)


def test_a_prompt_with_a_placeholder_needs_no_template(image: Image.Image) -> None:
    inp = ImagePromptInput(
        image, "<image> is red .", llava_processor(CROP, "default", None)
    )
    ids = inp.to_model_input()["input_ids"][0].tolist()
    assert inp.prompt == "<image> is red ."
    assert ids[: NUM_IMAGE_TOKENS + 1] == [1] + [IMAGE_TOKEN] * NUM_IMAGE_TOKENS


def test_features_are_the_image_tokens(
    image: Image.Image, processor: LlavaProcessor
) -> None:
    model = tiny_vlm()
    for inp in (
        ImagePromptInput(image, QUESTION, processor),
        ImagePromptInput(image, QUESTION, processor, model),
    ):
        assert inp.n_itp_features == NUM_IMAGE_TOKENS == len(inp.values)
        assert inp.to_tensor().tolist() == [[1.0] * NUM_IMAGE_TOKENS]
        assert inp.values[:5] == [
            *(f"full[0,{column}]" for column in range(4)),
            "full[1,0]",
        ]
        assert inp.layout.image_sizes == ((40, 60),)
        boxes = inp.layout.boxes()
        assert boxes is not None
        # The centre 40 x 40 pixels, in 4 x 4 boxes.
        assert boxes[0].tolist() == [0.0, 10.0, 10.0, 20.0]
        assert boxes[-1].tolist() == [30.0, 40.0, 40.0, 50.0]


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_an_image_of_any_mode_is_its_rgb_conversion(
    processor: LlavaProcessor, mode: str
) -> None:
    converted = Image.fromarray(noise()).convert(mode)
    assert torch.equal(
        pixels_of(converted, processor), pixels_of(converted.convert("RGB"), processor)
    )


def test_a_palette_is_looked_up(processor: LlavaProcessor) -> None:
    palette_image = Image.fromarray(noise()).quantize(16)
    colours = np.array(palette_image.getpalette()).reshape(-1, 3).astype(np.uint8)
    looked_up = Image.fromarray(colours[np.asarray(palette_image)])
    assert torch.equal(
        pixels_of(palette_image, processor), pixels_of(looked_up, processor)
    )


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_scaled_not_clipped(
    processor: LlavaProcessor, mode: str
) -> None:
    eight_bits = noise(channels=())
    levels = eight_bits.astype(np.int64) * 257 + noise(channels=())[::-1] // 2
    levels = levels.clip(0, 65535)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    sixteen = Image.frombytes(mode, (60, 40), levels.astype(dtype).tobytes())
    assert sixteen.mode == mode
    assert torch.equal(
        pixels_of(sixteen, processor), pixels_of(Image.fromarray(eight_bits), processor)
    )


def test_small_integers_are_grey_levels_as_they_are(processor: LlavaProcessor) -> None:
    eight_bits = noise(channels=())
    integers = Image.fromarray(eight_bits.astype(np.int32))
    assert integers.mode == "I"
    assert torch.equal(
        pixels_of(integers, processor),
        pixels_of(Image.fromarray(eight_bits), processor),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_tag_turns_the_image(
    image: Image.Image, processor: LlavaProcessor, orientation: int
) -> None:
    turned = _photographed(image, orientation)
    turns: Any = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = image if orientation == 1 else image.transpose(turns[orientation])
    inp = ImagePromptInput(turned, QUESTION, processor)
    assert inp.image.size == upright.size
    assert inp.layout == ImagePromptInput(upright, QUESTION, processor).layout
    assert torch.equal(pixels_of(turned, processor), pixels_of(upright, processor))


def _photographed(image: Image.Image, orientation: int) -> Image.Image:
    """The image as read from a file whose EXIF tag states an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, format="PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16", "CMYK"])
def test_the_users_image_is_unchanged(processor: LlavaProcessor, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(noise(channels=()).astype(np.uint16) * 200)
    else:
        image = Image.fromarray(noise()).convert(mode)
    image.info["comment"] = "kept"
    before = image.copy()
    inp = ImagePromptInput(image, QUESTION, processor)
    inp.to_model_input(torch.zeros(1, NUM_IMAGE_TOKENS))
    assert (image.mode, image.size) == (before.mode, before.size)
    assert image.tobytes() == before.tobytes()
    assert image.info == before.info
    assert image.getpalette() == before.getpalette()


@pytest.mark.parametrize("settings", [CROP, STRETCH], ids=["crop", "stretch"])
def test_a_missing_feature_whitens_exactly_its_box(
    image: Image.Image, settings: dict[str, Any]
) -> None:
    processor = llava_processor(settings)
    inp = ImagePromptInput(image, QUESTION, processor)
    whitened: list[Image.Image] = []
    make_inputs = inp.processor_fn

    def recorded(image: Image.Image) -> Any:
        whitened.append(image)
        return make_inputs(image)

    inp.processor_fn = recorded
    present = torch.ones(1, NUM_IMAGE_TOKENS)
    present[0, [2, 9]] = 0
    made = inp.to_model_input(present)
    token = inp.layout.token_of_pixel().numpy()
    expected = np.array(image)
    expected[(token == 2) | (token == 9)] = 255
    assert np.array_equal(np.asarray(whitened[0]), expected)
    by_hand = processor(
        images=Image.fromarray(expected), text=PROMPT, return_tensors="pt"
    )
    assert torch.equal(made["pixel_values"], by_hand["pixel_values"])
    assert torch.equal(made["input_ids"], by_hand["input_ids"])


def test_all_features_present_is_the_image_itself(
    image: Image.Image, processor: LlavaProcessor
) -> None:
    inp = ImagePromptInput(image, QUESTION, processor)
    made = inp.to_model_input(inp.to_tensor())
    assert torch.equal(made["pixel_values"], inp.to_model_input()["pixel_values"])


def test_pixel_attributions_are_those_of_the_pixels_token(
    image: Image.Image, processor: LlavaProcessor
) -> None:
    inp = ImagePromptInput(image, QUESTION, processor)
    attr = torch.arange(1.0, NUM_IMAGE_TOKENS + 1)[None]
    painted = inp.format_pixel_attr(attr)
    assert torch.equal(painted[0], inp.layout.token_of_pixel() + 1.0)
    assert (painted[0] == 0).any()


def test_captums_llm_attribution_has_the_same_columns(
    image: Image.Image, processor: LlavaProcessor
) -> None:
    model: Any = tiny_vlm()
    inp = ImagePromptInput(image, QUESTION, processor, model)
    target = torch.tensor([40, 41])
    ablation = LLMAttribution(FeatureAblation(model), processor.tokenizer)
    # With its default, use_cached_outputs=True, Captum 0.9 drops the pixels under
    # transformers 5, and every attribution is zero.
    result = ablation.attribute(inp, target=target, use_cached_outputs=False)
    assert result.input_tokens == inp.values
    assert result.token_attr.shape == (2, NUM_IMAGE_TOKENS)
    without = torch.ones(1, NUM_IMAGE_TOKENS)
    without[0, 6] = 0
    expected = _log_probs(model, inp.to_model_input(), target) - _log_probs(
        model, inp.to_model_input(without), target
    )
    torch.testing.assert_close(result.token_attr[:, 6], expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().min() > 1e-3


def _log_probs(model: Any, inputs: Any, target: Tensor) -> Tensor:
    ids = torch.cat([inputs["input_ids"], target[None]], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
    rows: Tensor = logits[0, -len(target) - 1 : -1].log_softmax(-1)
    return rows.gather(1, target[:, None])[:, 0]
