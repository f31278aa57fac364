"""Families with one square picture per image: boxes, prompts, settings, pixels."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs import Prompt
from captum_dexar.maps.image_tokens import ImageTokenInput
from tests.families.cases import squares
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.square_processors import PROCESSORS
from tests.helpers.tiny_models import NUM_IMAGE_TOKENS
from torch import nn, Tensor

SHAPES = (
    (48, 48),
    (50, 71),
    (31, 77),
    (77, 31),
    (33, 130),
    (130, 33),
    (64, 65),
    (7, 5),
    (5, 12),
    (6, 90),
    (400, 1500),
)
# The vision tower, and the output projections that mix its patches.
SILENCED = {
    "video_llava": ("image_tower", "self_attn.out_proj"),
    "fast_vlm": ("vision_tower", "pwconv2"),
    "deepseek_vl": ("vision_model", "self_attn.out_proj"),
    "deepseek_vl_hybrid": ("vision_model", "self_attn.out_proj"),
    "janus": ("vision_model", "self_attn.projection_layer"),
    "shieldgemma2": ("vision_tower", "self_attn.out_proj"),
}
PADDED = ("deepseek_vl", "deepseek_vl_hybrid", "janus")


@lru_cache
def silent_model(variant: str) -> Any:
    model: Any = silence_vision_attention(squares.build(variant), *SILENCED[variant])
    if variant == "deepseek_vl_hybrid":
        # SAM's half of the features; it has a test of its own.
        for parameter in model.model.aligner.high_res_vision_proj.parameters():
            nn.init.zeros_(parameter)
    return model


def features_by(model: Any) -> Callable[[Any], Tensor]:
    def features(inputs: Any) -> Tensor:
        # Video-LLaVA's argument has another name than its input.
        pixels = [value for name, value in inputs.items() if "pixel_values" in name]
        tokens: Tensor = model.base_model.get_image_features(*pixels).pooler_output
        return tokens.flatten(0, -2)

    return features


def prompt_of(variant: str, processor: Any) -> str:
    """A whole prompt, so that no chat template is needed."""
    return f"{processor.image_token} is red"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", PROCESSORS)
def test_blocks_change_the_tokens_whose_boxes_hold_them(
    variant: str, shape: tuple[int, int]
) -> None:
    model, processor = silent_model(variant), PROCESSORS[variant]()
    text = prompt_of(variant, processor)
    inp = ImagePromptInput(dark_image(*shape), text, processor, model)
    # The small copy that SigLIP sees is made of a copy, not of the image.
    support = 4.0 if variant == "deepseek_vl_hybrid" else 2.0
    report = block_report(
        inp, random_blocks(*shape, 12), features_by(model), squares.PATCH, support
    )
    check(report)
    assert report.covering.any()
    assert not report.changed.all(1).any()
    by_processor = ImagePromptInput(dark_image(*shape), text, processor)
    assert by_processor.layout == inp.layout


def test_the_features_of_sam_come_from_the_same_boxes() -> None:
    """They reach farther, by convolutions, but see all of the token's own box."""
    model: Any = squares.build("deepseek_vl_hybrid")
    silence_vision_attention(model, "high_res_vision_model", "attn.proj")
    for parameter in model.model.aligner.vision_proj.parameters():
        nn.init.zeros_(parameter)
    processor = PROCESSORS["deepseek_vl_hybrid"]()
    inp = ImagePromptInput(dark_image(50, 71), "<image>", processor, model)
    report = block_report(inp, random_blocks(50, 71, 30), features_by(model))
    assert report.covering.any()
    assert not (report.covering & ~report.changed).any()
    rows, columns = (report.changed.view(-1, 4, 4).any(dim) for dim in (2, 1))
    covered = report.covering.view(-1, 4, 4)
    for changed, own in ((rows, covered.any(2)), (columns, covered.any(1))):
        for one, box in zip(changed.tolist(), own.tolist()):
            reached = [index for index in range(4) if one[index]]
            # A box is in what tokens below and to the right of it see, but hardly in
            # what those above it and to the left do.
            assert reached[0] >= box.index(True) - 1
            assert reached[-1] <= 3 - box[::-1].index(True) + 2


@pytest.mark.parametrize(
    "settings",
    [{"do_pad": False}, {"do_resize": False}, {"min_size": 20}, {"min_size": 14}],
    ids=str,
)
@pytest.mark.parametrize("shape", [(32, 32), (20, 32), (90, 30)], ids=str)
@pytest.mark.parametrize("variant", PADDED)
def test_settings_of_padding_to_a_square(
    variant: str, shape: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Patches of the processed picture, whatever the size of it."""
    model, processor = silent_model(variant), PROCESSORS[variant](**settings)
    made = processor.image_processor(dark_image(*shape), return_tensors="pt")
    rows, columns = (edge // squares.PATCH for edge in made["pixel_values"].shape[-2:])
    adapter = adapter_for_config(model.config)

    def features(inputs: Any) -> Tensor:
        pixels, patch = inputs["pixel_values"], squares.PATCH
        return nn.functional.unfold(pixels, patch, stride=patch)[0].T

    def process(image: Any) -> Any:
        return processor.image_processor(image, return_tensors="pt")

    layout = adapter.layout(
        made,
        rows * columns,
        image_sizes=[shape],
        processor=processor,
        config=model.config,
    )
    inp = ImageTokenInput([dark_image(*shape)], layout, process)
    support = 4.0 if variant == "deepseek_vl_hybrid" else 2.0
    report = block_report(
        inp, random_blocks(*shape, 10), features, squares.PATCH, support
    )
    check(report)
    assert report.covering.any()


@pytest.mark.parametrize("variant", PROCESSORS)
def test_every_form_of_the_input_has_the_same_map(variant: str) -> None:
    """Without a grid: the input of an image and a prompt, Captum's, the output of the
    processor's own call, and the batch of two prompts."""
    model, processor = squares.build(variant), PROCESSORS[variant]()
    image, other = dark_image(50, 71), dark_image(31, 77, seed=1)
    adapter = adapter_for_config(model.config)
    text = prompt_of(variant, processor)

    def process(of: Any) -> Any:
        if variant == "shieldgemma2":
            return adapter.process(of, text, processor)
        return processor(images=of, text=text, return_tensors="pt")

    method = VLMAttribution(LayerDexAR(model), processor)
    ours = ImagePromptInput(image, text, processor, model)
    answer = [17, 30, 9]
    result = method.attribute(ours, target=answer)
    captums = ImageMaskInput(image, processor_fn=process)
    for inp in (captums, process(image)):
        again = method.attribute(inp, target=answer)
        torch.testing.assert_close(again.token_attr, result.token_attr)
    layout = method.attribute(captums, target=answer).layout
    assert layout == ours.layout and layout.is_located
    longer = ImagePromptInput(other, f"left of {text}", processor, model)
    batch = method.attribute([ours, longer], target=[answer, answer])
    for one, alone in zip(batch, (result, method.attribute(longer, target=answer))):
        torch.testing.assert_close(
            one.token_attr, alone.token_attr, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("variant", PROCESSORS)
def test_two_images(variant: str) -> None:
    model, processor = silent_model(variant), PROCESSORS[variant]()
    images = [dark_image(50, 71), dark_image(31, 77, seed=1)]
    text = f"left {processor.image_token} of {processor.image_token} red"
    inp = ImagePromptInput(images, text, processor, model)
    assert inp.layout.num_images == 2
    for index, image in enumerate(images):
        alone = ImagePromptInput(
            image, f"{processor.image_token} red", processor, model
        )
        assert inp.layout.of_image(index)[0] == alone.layout
        inputs, plain = alone.to_model_input(), inp.to_model_input()
        features = features_by(model)
        with torch.no_grad():
            both = features(plain).unflatten(0, (2, NUM_IMAGE_TOKENS))
            torch.testing.assert_close(both[index], features(inputs))
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[5, 6])
    assert result.token_attr.shape == (2, 2 * NUM_IMAGE_TOKENS)


def test_a_policy_is_a_question_to_shieldgemma2() -> None:
    model, processor = silent_model("shieldgemma2"), PROCESSORS["shieldgemma2"]()
    inp = ImagePromptInput(dark_image(50, 71), "is it red ?", processor, model)
    assert inp.prompt == "USER: <boi>is it red ? ASSISTANT:"
    made = inp.to_model_input()
    # The processor's own call for the same policy.
    own = processor(
        images=dark_image(50, 71),
        policies=["red"],
        custom_policies={"red": "is it red ?"},
        add_generation_prompt=True,
        return_tensors="pt",
    )
    assert torch.equal(made["pixel_values"], own["pixel_values"])
    kinds = (made["input_ids"] == model.config.image_token_id).long()
    assert torch.equal(made["token_type_ids"], kinds)
    ids = own["input_ids"][0].tolist()
    assert made["input_ids"][0, : len(ids)].tolist() == ids


def test_pixels_of_two_inputs_are_refused() -> None:
    model = squares.build("deepseek_vl_hybrid")
    inputs = squares.inputs("deepseek_vl_hybrid", 0, 3)
    prompt = Prompt(model, inputs)
    with pytest.raises(TypeError, match="sees the image in two inputs"):
        prompt.adapter.token_of_pixel_input(inputs, prompt.layout, model.config)
    del inputs["high_res_pixel_values"]
    with pytest.raises(ValueError, match="has no 'high_res_pixel_values'"):
        VLMAttribution(LayerDexAR(model)).attribute(inputs, target=[5])
