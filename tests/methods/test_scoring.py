"""Equations (4) to (6) against gradients that are known."""

import warnings

import pytest
import torch
from captum_dexar.maps.normalization import (
    accumulation_dtype,
    min_max_normalize,
    scale_signed,
)
from captum_dexar.methods import scoring

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_score_is_the_largest_positive_gradient(dtype: torch.dtype) -> None:
    gradients = torch.tensor([[0.5, -2.0, 1.5], [-1.0, -3.0, -0.5]], dtype=dtype)
    scores = scoring.head_scores(gradients)
    assert scores.tolist() == [1.5, 0.0]
    assert scores.dtype == torch.float64


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, 8.0), (2, 6.0), (3, 4.0), (4, 3.0), (9, 3.0)]
)
def test_top_k_is_a_mean_over_the_largest(top_k: int, expected: float) -> None:
    gradients = torch.tensor([4.0, -7.0, 8.0, 0.0])
    assert scoring.head_scores(gradients, top_k=top_k).item() == expected


@pytest.mark.parametrize("top_k", [1, 2, 5, 20])
@pytest.mark.parametrize("block", [1, 3, 7, 50])
def test_blocks_of_keys_score_like_all_at_once(top_k: int, block: int) -> None:
    gradients = torch.randn(2, 3, 17, generator=torch.Generator().manual_seed(0))
    whole = scoring.head_scores(gradients, top_k=top_k)
    blocks = iter(gradients.split(block, dim=-1))
    assert torch.equal(scoring.head_scores(blocks, top_k=top_k), whole)


def test_keys_that_may_not_be_attended_to_do_not_dilute_the_mean() -> None:
    alone = scoring.head_scores(torch.tensor([[3.0, 1.0]]), top_k=4)
    padded = scoring.head_scores(
        torch.tensor([[0.0, 3.0, 1.0, 0.0, 0.0]]), torch.tensor([2]), top_k=4
    )
    assert torch.equal(alone, padded)


def test_the_mean_is_over_the_top_k_or_what_there_is() -> None:
    gradients = torch.tensor([[6.0, 3.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    scores = scoring.head_scores(gradients, torch.tensor([3, 1, 0]), top_k=2)
    assert scores.tolist() == [4.5, 4.0, 0.0]


def test_top_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match="top_k must be a positive"):
        scoring.head_scores(torch.ones(3), top_k=0)
    with pytest.raises(ValueError, match="at least one block"):
        scoring.head_scores([])


def test_head_filter_keeps_what_the_image_raises_more_than_the_text() -> None:
    image, text = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 2.0])
    assert scoring.head_weights(image, text).tolist() == [2.0, 0.0, 0.0]
    assert scoring.head_weights(image, text, head_filter=False).tolist() == [1.0] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [(2, 3), (1, 6), (6, 1)])
def test_token_map_of_a_score_whose_gradient_is_known(
    dtype: torch.dtype, grid: tuple[int, int]
) -> None:
    # o = sum_ij coefficients_ij A_ij, so that d o / d A = coefficients.
    attention = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
    coefficients = torch.tensor([[4, -1, 0, 2, 1, 0.5], [1, 1, -8, 0, 3, 0]]).double()
    (gradients,) = torch.autograd.grad((coefficients * attention).sum(), attention)
    weights = torch.tensor([0.5, 2.0], dtype=dtype)
    token_map = scoring.token_map(gradients.to(dtype), weights)
    expected = torch.tensor([4.0, 2.0, 0.0, 1.0, 6.5, 0.25])
    assert torch.equal(token_map.view(grid), expected.double().view(grid))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_token_map_is_the_weighted_sum_whatever_the_size_of_weights(
    size: float,
) -> None:
    gradients = torch.tensor([[1.0, -1.0, 2.0], [0.0, 3.0, 1.0]])
    weights = size * torch.tensor([0.5, 0.25], dtype=torch.float64)
    expected = size * torch.tensor([0.5, 0.75, 1.25], dtype=torch.float64)
    torch.testing.assert_close(scoring.token_map(gradients, weights), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_token_map_is_summed_in_float32_at_least(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.rand(7, 5, generator=generator).to(dtype)
    weights = torch.rand(7, generator=generator).double()
    expected = (gradients.double() * weights[:, None]).sum(0)
    error = 1e-15 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        scoring.token_map(gradients, weights), expected, rtol=error, atol=0
    )


def test_all_heads_filtered_gives_a_zero_map() -> None:
    gradients = torch.rand(3, 5)
    weights = scoring.head_weights(torch.rand(3), torch.full((3,), 2.0))
    token_map = scoring.token_map(gradients, weights)
    assert not token_map.any()
    assert torch.equal(min_max_normalize(token_map), torch.zeros(5).double())


def test_token_weight_compares_the_best_heads_of_all_layers() -> None:
    image = torch.tensor([[1.0, 5.0], [2.0, 0.0]])
    text = torch.tensor([[4.0, 0.0], [3.0, 1.0]])
    assert scoring.token_weights(image, text).item() == 1.0
    assert scoring.token_weights(text, image).item() == 0.0


def test_a_layer_with_fewer_heads_is_filled_with_nan_and_passed_over() -> None:
    image = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    text = torch.tensor([[2.0, float("nan")], [1.0, 0.5]])
    assert scoring.token_weights(image, text).item() == 1.0


def test_a_head_that_is_not_there_is_no_positive_score() -> None:
    nan = float("nan")
    image = torch.tensor([[0.25, nan], [0.5, 0.75]])
    text = torch.tensor([[0.25, 0.125], [0.5, nan]])
    assert scoring.token_weights(image, text).item() == 0.25
    assert scoring.token_weights(text, image / 4).item() == 0.3125


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e8, 1e30])
def test_maps_do_not_depend_on_the_gradients_scale(scale: float) -> None:
    gradients = torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) - 0.3
    image = scoring.head_scores(gradients * scale)
    text = scoring.head_scores((gradients * scale * 0.5).flip(-1))
    weights = scoring.head_weights(image, text)
    maps = min_max_normalize(scoring.token_map(gradients * scale, weights))
    reference = min_max_normalize(
        scoring.token_map(
            gradients,
            scoring.head_weights(
                scoring.head_scores(gradients),
                scoring.head_scores((gradients * 0.5).flip(-1)),
            ),
        )
    )
    assert maps.max() == 1 and maps.min() == 0
    torch.testing.assert_close(maps, reference, rtol=1e-5, atol=1e-6)


def test_half_precision_does_not_underflow() -> None:
    gradients = torch.full((1, 2), 6e-8, dtype=torch.float16)
    gradients[0, 1] = 0
    weights = scoring.head_scores(gradients)
    assert scoring.token_map(gradients, weights)[0] > 0


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-30, 1e30])
def test_constant_maps_become_zero_never_nan(value: float) -> None:
    normalized = min_max_normalize(torch.full((2, 7), value))
    assert torch.equal(normalized, torch.zeros(2, 7).double())


def test_sequence_map_weights_normalised_token_maps() -> None:
    token_attr = torch.tensor([[0.0, 2.0, 1.0], [30.0, 10.0, 20.0]])
    weights = torch.tensor([2.0, 1.0])
    paper = scoring.sequence_attribution(token_attr, weights)
    assert paper.tolist() == [1.0, 2.0, 1.5]
    release = scoring.sequence_attribution(token_attr, weights, normalize=False)
    assert release.tolist() == [30.0, 14.0, 22.0]


def test_zero_weights_give_zero_and_say_so() -> None:
    token_attr = torch.rand(3, 4)
    with pytest.warns(UserWarning, match="0 of 3 token weights are positive"):
        total = scoring.sequence_attribution(token_attr, torch.zeros(3))
    assert torch.equal(total, torch.zeros(4).double())


def test_constant_maps_with_weights_give_zero_and_say_so() -> None:
    with pytest.warns(UserWarning, match="2 of 2 token weights are positive"):
        total = scoring.sequence_attribution(torch.ones(2, 4), torch.ones(2))
    assert not total.any()


def test_no_warning_without_a_reason() -> None:
    """A part of an answer, no image token, and an answer that has a map."""
    maps = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scoring.sequence_attribution(maps, torch.zeros(2), is_part=True)
        scoring.sequence_attribution(maps[:, :0], torch.zeros(2), normalize=False)
        scoring.sequence_attribution(maps, torch.ones(2))


def test_examples_of_a_batch_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(3, 2, 4, 5, generator=generator)  # batch steps heads keys
    text = torch.randn(3, 2, 4, 6, generator=generator)

    def explained(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        scores = scoring.head_scores(image), scoring.head_scores(other)
        maps = scoring.token_map(image, scoring.head_weights(*scores))
        weights = scoring.token_weights(scores[0][..., None], scores[1][..., None])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return scoring.sequence_attribution(maps, weights)

    together = explained(gradients, text)
    for example in range(3):
        assert torch.equal(
            together[example], explained(gradients[example], text[example])
        )


def test_sums_are_as_wide_as_the_device_allows() -> None:
    """Apple's MPS has no float64."""
    assert accumulation_dtype(torch.device("mps")) == torch.float32
    assert accumulation_dtype(torch.device("cpu")) == torch.float64


def test_signed_maps_are_scaled_and_zero_stays() -> None:
    maps = torch.tensor([[-4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.125, 0.25, 0.5]])
    expected = torch.tensor([[-1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.25, 0.5, 1.0]])
    torch.testing.assert_close(scale_signed(maps), expected.double())


def test_a_signed_answer_sums_its_scaled_maps() -> None:
    signed = torch.tensor([[-4.0, 0.0, 2.0], [1.0, 2.0, 4.0]])
    unsigned = torch.tensor([[1.0, 2.0, 3.0], [0.0, 2.0, 4.0]])
    weights = torch.tensor([1.0, 2.0])
    together = scoring.sequence_attribution(
        torch.stack([signed, unsigned]), weights.expand(2, -1)
    )
    expected = torch.tensor([[-0.5, 1.0, 2.5], [0.0, 1.5, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(together, expected)
    plain = scoring.sequence_attribution(signed, weights, normalize=False)
    torch.testing.assert_close(plain, torch.tensor([-2.0, 4.0, 10.0]).double())
