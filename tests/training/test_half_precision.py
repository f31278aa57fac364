"""The attention of training in bfloat16 is attention, and is put back."""

import pytest
import torch
from captum_dexar.shapes.world import WORLD
from captum_dexar.training.batches import TrainingSteps
from captum_dexar.training.half_precision import bfloat16_attention, bfloat16_products
from captum_dexar.training.packing import answer_logits
from captum_dexar.worlds.model import build_model
from tests.training.recipes import short_recipe
from torch import nn


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_attention(masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 10, 8, dtype=torch.float32)
    mask = torch.rand(2, 1, 10, 10) < 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    output, _ = bfloat16_attention(nn.Identity(), query, key, value, mask, 0.3)
    expected = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3
    )
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(
        output.float(), expected.transpose(1, 2), rtol=0.05, atol=0.03
    )


def test_what_is_masked_has_no_effect_at_all() -> None:
    query, key, value = torch.randn(3, 1, 2, 6, 8)
    mask = torch.ones(1, 1, 6, 6).bool().tril()
    before, _ = bfloat16_attention(nn.Identity(), query, key, value, mask, 1.0)
    key[:, :, 4:], value[:, :, 4:] = 50.0, -50.0
    after, _ = bfloat16_attention(nn.Identity(), query, key, value, mask, 1.0)
    assert torch.equal(before[:, :4], after[:, :4])


def test_logits_are_those_of_float32_and_the_model_is_put_back() -> None:
    torch.manual_seed(0)
    model = build_model(WORLD).eval()
    recipe = short_recipe("words")
    data = TrainingSteps(WORLD, recipe, 0)
    batch = data[len(data) - 1]
    assert batch.packed is not None
    with torch.no_grad():
        expected, _ = answer_logits(model, batch.pixel_values, batch.packed)
        with bfloat16_products(model, True):
            logits, _ = answer_logits(model, batch.pixel_values, batch.packed)
        again, _ = answer_logits(model, batch.pixel_values, batch.packed)
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - expected).norm() / expected.norm()
    assert 0 < error < 0.03
    assert torch.equal(again, expected)


def test_the_model_is_put_back_after_an_error() -> None:
    model = build_model(WORLD)
    with pytest.raises(ZeroDivisionError):
        with bfloat16_products(model, True):
            assert model.config._attn_implementation != "sdpa"
            raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert not torch.is_autocast_enabled("cpu")
