"""Models whose decoder layers attend more than once, or to the image alone."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMForward
from captum_dexar.attention_gradients import (
    AttentionGradients,
    AutogradReference,
    ClosedForm,
    LayerGradients,
)
from captum_dexar.decoding import DecodingSteps, generate
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases.cross_attention import (
    build_florence2,
    build_mllama,
    florence2_inputs,
    KEYS_PER_TILE,
    mllama_inputs,
    ONE_TILE,
    TWO_BY_TWO,
)
from tests.helpers.explained import assert_same, explained
from torch import nn, Tensor

TARGETS = torch.tensor([[20, 30, 40]])
NUM_HEADS = 4
BUILDERS = {"florence2": build_florence2, "mllama": build_mllama}
INPUTS = {"florence2": florence2_inputs, "mllama": mllama_inputs}

every_family = pytest.mark.parametrize("family", BUILDERS)
every_engine = pytest.mark.parametrize("engine", ["closed_form", "autograd"])


def gradients_of(
    model: nn.Module, inputs: dict[str, Any], engine: str
) -> list[tuple[LayerGradients, Tensor]]:
    """What an engine hands over, and its text keys in one block, layer by layer."""
    steps = DecodingSteps(Prompt(model, inputs), TARGETS)
    decoder = find_decoder(model)
    kept: list[tuple[LayerGradients, Tensor]] = []
    run: AttentionGradients = ClosedForm(steps.full_pass())
    if engine == "autograd":
        run = AutogradReference(
            model,
            steps.prefixes(),
            steps.target_ids,
            steps.prompt.image_keys,
            cross_attention=steps.prompt.adapter.cross_attention,
        )

    def keep(gradients: LayerGradients) -> None:
        kept.append((gradients, torch.cat(list(gradients.text_blocks), dim=-1)))

    run(decoder, list(range(len(decoder.layers))), keep)
    return kept


def test_a_decoder_is_not_taken_for_its_encoder() -> None:
    model: Any = build_florence2(0, "sdpa")
    decoder = find_decoder(model)
    assert decoder.layers == list(model.model.language_model.decoder.layers)
    assert len(decoder.layers) == 3
    assert decoder.final_norm is None
    assert decoder.head is model.lm_head


@pytest.mark.parametrize("cross_attention_layers", [(1, 2), (0, 3), (3,)], ids=str)
def test_layers_that_need_an_image_do_not_hide_the_norm(
    cross_attention_layers: tuple[int, ...],
) -> None:
    """Without an image the model skips them, be it the first or the last."""
    model: Any = build_mllama(0, "sdpa", cross_attention_layers)
    decoder = find_decoder(model)
    assert decoder.final_norm is model.model.language_model.norm
    reference = explained(model, mllama_inputs(0, 3), TARGETS, engine="autograd")
    assert_same(explained(model, mllama_inputs(0, 3), TARGETS), reference)


@every_engine
def test_self_attention_beside_cross_attention_reads_no_image(engine: str) -> None:
    model, inputs = build_florence2(0, "sdpa"), florence2_inputs(0, 3)
    num_image_keys = 17
    for gradients, text in gradients_of(model, inputs, engine):
        of_self, of_cross = gradients.image.split(NUM_HEADS, dim=2)
        assert (of_self == 0).all() and (of_cross != 0).any()
        counted = gradients.num_image_keys.expand(-1, -1, 2 * NUM_HEADS)
        assert (counted[..., :NUM_HEADS] == 0).all()
        assert (counted[..., NUM_HEADS:] == num_image_keys).all()
        # Of the decoder's own tokens the step's prefix; of the encoder's all others.
        texts = gradients.num_text_keys.expand(-1, -1, 2 * NUM_HEADS)
        assert texts[0, :, 0].tolist() == [1, 2, 3]
        assert texts[0, :, NUM_HEADS].tolist() == [9, 9, 9]
        assert (text[:, :, :NUM_HEADS] != 0).any()
        assert (text[:, :, NUM_HEADS:] != 0).any()


@every_engine
def test_unused_tiles_and_text_are_no_keys_of_cross_attention(engine: str) -> None:
    """Two by two tiles are four, all used; of the second image's only one is."""
    model = build_mllama(0, "sdpa")
    inputs = mllama_inputs(0, 3, ratios=(TWO_BY_TWO, ONE_TILE))
    layers = gradients_of(model, inputs, engine)
    for index in (1, 2):
        gradients, text = layers[index]
        assert (gradients.image[..., : 5 * KEYS_PER_TILE] != 0).any()
        assert (gradients.image[..., 5 * KEYS_PER_TILE :] == 0).all()
        assert (gradients.num_image_keys == 5 * KEYS_PER_TILE).all()
        assert (gradients.num_text_keys == 0).all()
        assert not text.any()
    for index in (0, 3):
        gradients, text = layers[index]
        assert not gradients.image.any() and text.any()


def test_a_gradient_is_what_a_changed_probability_does() -> None:
    """Of a self-attention, also by the query of the cross-attention behind it."""
    model: Any = build_florence2(0, "eager").double()
    inputs = florence2_inputs(0, 3)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    steps = DecodingSteps(Prompt(model, inputs), TARGETS)
    decoder = find_decoder(model)
    last = len(decoder.layers) - 1
    layer: Any = decoder.layers[last]
    head, size, change = 1, 12, 1e-5
    gradients = gradients_of(model, inputs, "closed_form")[last][1][0, 2, head, :3]
    assert gradients.abs().min() > 1e-4
    value: list[Tensor] = []
    handle = layer.self_attn.v_proj.register_forward_hook(
        lambda module, args, output: value.append(output)
    )
    with torch.no_grad():
        steps.full_pass().logits()
    handle.remove()

    def logit(key: int, amount: float) -> Tensor:
        def read_more(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            heads = args[0].clone().unflatten(-1, (NUM_HEADS, size))
            read = value[0].unflatten(-1, (NUM_HEADS, size))[:, key, head]
            heads[:, 2, head] += amount * read
            return (heads.flatten(-2),)

        handle = layer.self_attn.out_proj.register_forward_pre_hook(read_more)
        with torch.no_grad():
            logits = steps.full_pass().logits()
        handle.remove()
        return logits[0, 2, TARGETS[0, 2]]

    for key in range(3):
        slope = (logit(key, change) - logit(key, -change)) / (2 * change)
        assert float(slope) == pytest.approx(float(gradients[key]), rel=1e-4, abs=1e-9)


@every_family
def test_frozen_models_are_explained_alike(family: str) -> None:
    model, inputs = BUILDERS[family](0, "sdpa"), INPUTS[family](0, 3)
    expected = explained(model, inputs, TARGETS)
    frozen = model.requires_grad_(False)
    for engine in ("closed_form", "autograd"):
        assert_same(explained(frozen, inputs, TARGETS, engine=engine), expected)


def test_encoder_prompts_are_padded_behind() -> None:
    model = build_florence2(0, "sdpa")
    short, long = florence2_inputs(0, 2), florence2_inputs(1, 5)
    padding = torch.zeros(1, 3, dtype=torch.long)
    mask = torch.ones_like(long["input_ids"])
    batch = {
        "pixel_values": torch.cat([short["pixel_values"], long["pixel_values"]]),
        "input_ids": torch.cat(
            [torch.cat([short["input_ids"], padding], 1), long["input_ids"]]
        ),
        "attention_mask": torch.cat([torch.cat([mask[:, 3:], padding], 1), mask]),
    }
    method = LayerDexAR(model)

    def attribute(inputs: dict[str, Tensor]) -> Tensor:
        others = dict(inputs)
        pixels, ids = others.pop("pixel_values"), others.pop("input_ids")
        result = method.attribute(
            pixels, additional_forward_args=(ids, others), normalize=False
        )
        assert isinstance(result, Tensor)
        return result

    both = attribute(batch)
    assert both.shape == (2, 1, 4, 4) and both.amax((1, 2, 3)).all()
    for row, single in enumerate((short, long)):
        torch.testing.assert_close(
            both[row : row + 1], attribute(single), rtol=2e-5, atol=1e-8
        )


@every_family
def test_next_tokens_are_those_of_generating(family: str) -> None:
    model: Any = BUILDERS[family](0, "sdpa")
    inputs = INPUTS[family](0, 3)
    answer = generate(Prompt(model, inputs), {"max_new_tokens": 1}).ids
    others = dict(inputs)
    pixels, ids = others.pop("pixel_values"), others.pop("input_ids")
    with torch.no_grad():
        logits = VLMForward(model)(pixels, ids, others)
    assert logits.argmax(-1).tolist() == answer[0].tolist()
    result = LayerDexAR(model).attribute(pixels, answer[0], (ids, others))
    same = LayerDexAR(model).attribute(pixels, None, (ids, others))
    assert isinstance(result, Tensor) and isinstance(same, Tensor)
    assert torch.equal(result, same)


def test_an_answer_that_starts_otherwise_is_refused() -> None:
    model: Any = build_florence2(0, "sdpa")
    model.generation_config.decoder_start_token_id = 1
    with pytest.raises(RuntimeError, match="did not start from the prompt"):
        generate(Prompt(model, florence2_inputs(0, 3)), {"max_new_tokens": 2})
