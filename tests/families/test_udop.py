"""UDOP: which of the encoder's states hold a patch of the page, and where it lies."""

from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config
from tests.families.cases.encoder_decoders import (
    build_udop,
    PAGE,
    PAGE_PATCH as PATCH,
    udop_inputs,
)
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    patch_features,
    random_blocks,
    SHAPES,
)
from torch import Tensor
from transformers import UdopProcessor, UdopTokenizer
from transformers.models.layoutlmv3.image_processing_pil_layoutlmv3 import (
    LayoutLMv3ImageProcessorPil,
)

SIDE = PAGE // PATCH
BILINEAR_SUPPORT = 1.0
WORDS = ("what", "is", "in", "the", "image", "?")


def udop_processor() -> UdopProcessor:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = UdopTokenizer(vocab=special + [(f"▁{word}", -1.0) for word in WORDS])
    size = {"height": PAGE, "width": PAGE}
    image_processor = LayoutLMv3ImageProcessorPil(size=size, apply_ocr=False)
    return UdopProcessor(image_processor, tokenizer)


def silent_encoder() -> Any:
    """Each state of the encoder is then a function of its own token alone."""
    model: Any = build_udop(0, "sdpa")
    for block in model.encoder.block:
        torch.nn.init.zeros_(block.layer[0].SelfAttention.o.weight)
    return model


def states(model: Any, inputs: dict[str, Any]) -> Tensor:
    names = ("input_ids", "bbox", "attention_mask", "pixel_values")
    with torch.no_grad():
        made = model.encoder(**{name: inputs[name] for name in names})
    hidden: Tensor = made.last_hidden_state[0]
    return hidden


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_each_patch_is_held_by_its_key_or_by_words(scale: float) -> None:
    model = silent_encoder()
    inputs = udop_inputs(0, 3, scale)
    adapter = adapter_for_config(model.config)
    keys = adapter.image_keys(inputs, model.config)[0]
    layout = adapter.layout(inputs, len(keys), image_sizes=None, config=model.config)
    of_pixels = adapter.token_of_pixel_input(inputs, layout, model.config)[0, 0]
    before = states(model, inputs)
    assert sorted(keys.tolist()) == list(range(9, 9 + SIDE**2)) and len(before) == 25
    on_words = []
    for patch in range(SIDE**2):
        row, column = (PATCH * place for place in divmod(patch, SIDE))
        of_patch = of_pixels[row : row + PATCH, column : column + PATCH]
        assert of_patch.unique().tolist() == [patch]
        pixels = inputs["pixel_values"].clone()
        pixels[..., row : row + PATCH, column : column + PATCH] += 3.0
        after = states(model, {**inputs, "pixel_values": pixels})
        changed = (after != before).any(-1).nonzero()[:, 0].tolist()
        if all(key < 9 for key in changed):
            on_words.append(patch)
        else:
            assert changed == [int(keys[patch])]
    # The question takes the first patch, and the end the last. Written in thousandths,
    # all words lie on that, too.
    assert on_words == ([0, 1, 3, 9, 10, 15] if scale == 1.0 else [0, 15])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_boxes(shape: tuple[int, int]) -> None:
    model = build_udop(0, "sdpa")
    inp = ImagePromptInput(dark_image(*shape), "what is ?", udop_processor(), model)
    assert inp.layout.views[0].grid == (SIDE, SIDE)
    blocks = random_blocks(*shape, 10)
    check(block_report(inp, blocks, patch_features, PATCH, BILINEAR_SUPPORT))


def test_words_of_the_processor_are_text() -> None:
    model: Any = build_udop(0, "sdpa")
    words, boxes = ["the", "image"], [[10, 20, 30, 40], [100, 200, 300, 400]]
    inputs = udop_processor()(
        images=dark_image(40, 60),
        text="what is ?",
        text_pair=words,
        boxes=boxes,
        return_tensors="pt",
    )
    method = VLMAttribution(LayerDexAR(model))
    result = method.attribute(inputs, gen_args={"max_new_tokens": 2})
    assert result.token_maps.shape == (2, SIDE, SIDE)
    assert not result.token_maps[:, 0, 0].any()
    assert not result.token_maps[:, -1, -1].any()


def test_boxes_are_needed() -> None:
    inputs = udop_inputs(0, 3)
    del inputs["bbox"]
    with pytest.raises(ValueError, match="has no 'bbox'"):
        VLMAttribution(LayerDexAR(build_udop(0, "sdpa"))).attribute(inputs)
