"""The closed form against plain autograd over eager attention, token by token."""

import copy
from functools import lru_cache
from typing import Any

import pytest
import torch
from captum_dexar.decoding.step_attributions import StepAttributions
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm, VARIANTS
from torch import Tensor


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_autograd(variant: str, attn_implementation: str, seed: int) -> None:
    model = tiny_vlm(variant, seed, attn_implementation=attn_implementation)
    inputs = prompt_inputs(seed, before=seed * 2, after=1 + seed)
    targets = random_targets(5, seed)
    reference = explained(model, inputs, targets, engine="autograd")
    assert_same(explained(model, inputs, targets), reference)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tokens", [1, 2, 40])
def test_equals_autograd_for_short_and_long_answers(
    variant: str, num_tokens: int
) -> None:
    model = tiny_vlm(variant, seed=7)
    inputs, targets = prompt_inputs(7), random_targets(num_tokens, 7)
    reference = explained(model, inputs, targets, engine="autograd")
    assert_same(explained(model, inputs, targets), reference)


@pytest.mark.parametrize(("before", "after"), [(0, 5), (9, 0), (9, 1), (0, 1)])
@pytest.mark.parametrize("variant", ["llava", "bakllava_sliding"])
def test_equals_autograd_wherever_the_image_is(
    variant: str, before: int, after: int
) -> None:
    """Also where the image ends the prompt, which can't be replayed on a cache."""
    model = tiny_vlm(variant, seed=2)
    inputs, targets = prompt_inputs(2, before, after), random_targets(4, 2)
    reference = explained(model, inputs, targets, engine="autograd")
    assert_same(explained(model, inputs, targets), reference)


@pytest.mark.parametrize("layers", [[0], [2], [1, 2], [2, 0]])
def test_equals_autograd_for_some_layers(layers: list[int]) -> None:
    model = tiny_vlm(seed=3)
    inputs, targets = prompt_inputs(3), random_targets(4, 3)
    reference = explained(model, inputs, targets, engine="autograd", layers=layers)
    assert_same(explained(model, inputs, targets, layers=layers), reference)


@pytest.mark.parametrize(
    "options",
    [
        {"head_filter": False},
        {"top_k": 3},
        {"top_k": 1000},
        {"attention_power": 0.5},
        {"attention_power": 1.0, "top_k": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["llava", "bakllava_sliding"])
def test_equals_autograd_with_options(variant: str, options: dict[str, Any]) -> None:
    """Both in float64: head weights are differences, and with powers of attention in
    float32 either engine alone can be 1e-5 off."""
    model = tiny_vlm(variant, seed=4).double()
    inputs = in_dtype(prompt_inputs(4), torch.float64)
    targets = random_targets(4, 4)
    reference = explained(model, inputs, targets, engine="autograd", **options)
    assert_same(explained(model, inputs, targets, **options), reference)


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_agree(variant: str) -> None:
    inputs, targets = prompt_inputs(5), random_targets(6, 5)
    sdpa = explained(tiny_vlm(variant, 5), inputs, targets)
    eager = tiny_vlm(variant, 5, attn_implementation="eager")
    assert_same(explained(eager, inputs, targets), sdpa)


def test_a_frozen_model_is_explained_like_a_trainable_one() -> None:
    model, inputs, targets = tiny_vlm(), prompt_inputs(), random_targets(3)
    trainable = explained(model, inputs, targets)
    model.requires_grad_(False)
    assert_same(explained(model, inputs, targets), trainable)
    assert_same(explained(model, inputs, targets, engine="autograd"), trainable)


@lru_cache(maxsize=None)
def exact(variant: str, seed: int) -> StepAttributions:
    """By autograd in float64."""
    model, inputs = tiny_vlm(variant, seed), prompt_inputs(seed)
    return explained(model, inputs, random_targets(4, seed), engine="autograd")


def in_dtype(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_no_worse_than_autograd_in_it(dtype: torch.dtype) -> None:
    """On average: single cases scatter with the rounding of the forward pass."""
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed in range(32):
        variant = VARIANTS[seed % 4]
        reference = exact(variant, seed)
        if not reference.token_attr.any():
            continue
        model = tiny_vlm(variant, seed).to(dtype)
        inputs, targets = in_dtype(prompt_inputs(seed), dtype), random_targets(4, seed)
        closed = explained(model, inputs, targets)
        autograd = explained(model, inputs, targets, engine="autograd")
        largest = reference.head_weights.max()
        for name in ("token_attr", "head_weights", "token_weights"):
            true = getattr(reference, name)
            scale = largest if name == "token_weights" else true.max()
            both = [
                float((getattr(rough, name) - true).abs().max() / scale)
                for rough in (closed, autograd)
            ]
            errors.setdefault(name, []).append((both[0], both[1]))
    for pairs in errors.values():
        assert len(pairs) > 20
        ours, theirs = zip(*pairs)
        assert sum(ours) <= 1.1 * sum(theirs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_small_gradients_do_not_underflow(dtype: torch.dtype, seed: int) -> None:
    """The weights of the head are so small that gradients are of the order of 1e-6 and
    their products of 1e-12: the first lose most of their digits in float16, where they
    come to that, and the second are nothing."""
    model: Any = tiny_vlm(seed=seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0**-20)
    model = model.to(dtype)
    inputs, targets = in_dtype(prompt_inputs(seed), dtype), random_targets(4, seed)
    widened = copy.deepcopy(model).float(), in_dtype(inputs, torch.float32)
    reference = explained(*widened, targets, engine="autograd")
    assert reference.head_weights.max() < 2e-6 and reference.token_attr.max() < 2e-12
    closed = explained(model, inputs, targets)
    tolerance = 8 * torch.finfo(dtype).eps
    for name in ("token_attr", "layer_attr", "head_weights"):
        assert getattr(closed, name).dtype == torch.float32
        error = relative_error(getattr(closed, name), getattr(reference, name))
        assert error <= tolerance
    off = (closed.token_weights - reference.token_weights).abs().max()
    assert off <= tolerance * reference.head_weights.max()


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_keys_outside_the_sliding_window_are_nothing(power: float) -> None:
    """A window of 8 that ends after the image leaves no image token to attend to."""
    model = tiny_vlm("bakllava_sliding")
    inputs = prompt_inputs(before=2, after=12)
    result = explained(model, inputs, random_targets(3), attention_power=power)
    assert not result.token_attr.any()
    assert not result.token_weights.any()


@pytest.mark.parametrize("cap", [1.0, 30.0])
def test_a_declared_soft_cap_that_is_not_applied_is_not_believed(cap: float) -> None:
    model, inputs, targets = tiny_vlm(seed=1), prompt_inputs(1), random_targets(3, 1)
    plain = explained(model, inputs, targets)
    declared = tiny_vlm(seed=1)
    declared.config.text_config.final_logit_softcapping = cap
    assert_same(explained(declared, inputs, targets), plain, tolerance=0.0)
