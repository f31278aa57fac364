"""Agreement of maps with true effects: by hand, and as others compute it."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.metrics import (
    effect_agreement,
    object_shares,
    rank_agreement,
    removal_effects,
)
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from tests.helpers.perturbed import literal_log_probs

MASKS = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 0]]])


def test_shares_by_hand() -> None:
    heat = torch.tensor([[1.0, 2.0, 9.0, 4.0], [0.0, -7.0, 0.0, 0.0]])
    # The positive part has a sum of 16; the first object has four pixels.
    assert object_shares(heat, MASKS).tolist() == [3 / 16, 4 / 16]
    assert object_shares(heat, MASKS, mean=True).tolist() == [3 / 64, 4 / 16]
    assert object_shares(torch.zeros(2, 4), MASKS).tolist() == [0, 0]
    assert object_shares(-heat.abs(), MASKS, mean=True).tolist() == [0, 0]
    # By the sums of a map of ones, the larger object is more important; not by means.
    ones = torch.ones(2, 4)
    assert object_shares(ones, MASKS).tolist() == [1 / 2, 1 / 8]
    assert object_shares(ones, MASKS, mean=True).tolist() == [1 / 8, 1 / 8]
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(
            object_shares(heat * factor, MASKS), object_shares(heat, MASKS)
        )


def test_what_is_no_map_of_objects() -> None:
    heat = torch.ones(2, 4)
    for masks, message in [
        (MASKS[0], r"got \(2, 4\) and \(2, 4\)"),
        (MASKS[:, :1], r"got \(2, 1, 4\)"),
        (MASKS * torch.tensor([1, 0])[:, None, None], "1 empty masks"),
    ]:
        with pytest.raises(ValueError, match=message):
            object_shares(heat, masks)
    with pytest.raises(ValueError, match="8 values that are not finite"):
        object_shares(heat * math.nan, MASKS)


@pytest.mark.parametrize("objects", [2, 3, 4, 7])
def test_without_ties_as_scipy_has_it(objects: int) -> None:
    rng = np.random.default_rng(objects)
    for _ in range(20):
        shares, effects = rng.random(objects), rng.random(objects) + 0.1
        found = effect_agreement(shares.tolist(), effects.tolist(), similar=0.0)
        assert found is not None
        assert found.spearman == pytest.approx(spearmanr(shares, effects).statistic)
        assert found.pearson == pytest.approx(pearsonr(shares, effects).statistic)
        assert found.top == float(shares.argmax() == effects.argmax())
        common = np.minimum(shares / shares.sum(), effects / effects.sum())
        assert found.overlap == pytest.approx(common.sum())
        assert found.largest == pytest.approx(shares[effects.argmax()])
        # Which object comes first does not matter, nor how large all shares are.
        order = rng.permutation(objects)
        moved = torch.from_numpy(shares[order] * 7), torch.from_numpy(effects[order])
        other = effect_agreement(*moved, similar=0.0)
        assert other is not None
        for name in ("spearman", "pearson", "top", "overlap"):
            assert getattr(other, name) == pytest.approx(getattr(found, name))


def test_two_objects() -> None:
    effects = [0.0, 2.0]
    for shares, spearman, pearson, top, overlap in [
        ([0.1, 0.3], 1, 1, 1, 0.75),
        ([0.3, 0.1], -1, -1, 0, 0.25),
        ([0.2, 0.2], 0, 0, 0.5, 0.5),
        ([0.0, 0.0], 0, 0, 0, 0),
        ([0.0, 1e-9], 1, 1, 1, 1),
    ]:
        found = effect_agreement(shares, effects)
        assert found is not None
        assert (found.spearman, found.pearson, found.top) == (spearman, pearson, top)
        assert found.overlap == pytest.approx(overlap)
        assert found.largest == shares[1]


def test_no_order_is_asked_of_objects_with_the_same_effect() -> None:
    """One object matters; what the map says of the order of the others doesn't."""
    effects = [5.0, 0.01, -0.3]
    for ranks, expected in {
        (3, 2, 1): 1,
        (3, 1, 2): 1,
        (2, 3, 1): 0,
        (2, 1, 3): 0,
        (1, 2, 3): -1,
        (1, 3, 2): -1,
    }.items():
        assert rank_agreement([float(one) for one in ranks], effects) == expected
    # Ranks (3, 1.5, 1.5), and the middle object with one of the others.
    assert rank_agreement([2.0, 1.0, 1.0], effects) == 1
    found = rank_agreement([2.0, 2.0, 1.0], effects)
    assert found == pytest.approx(1.0)  # (2.5, 1.75, 1.75) is in the right order
    every = [
        rank_agreement([float(one) for one in ranks], effects)
        for ranks in itertools.permutations(range(3))
    ]
    assert sum(filter(None, every)) == 0, "chance is 0"


def test_similar_effects_have_the_same_rank() -> None:
    shares = [0.1, 0.2, 0.3]
    # 12.4 is similar to 12.0, and 13.5 to 12.4; 11.1 is not similar to 12.4.
    for effects, expected in [
        ([12.4, 12.0, 3.0], -1),
        ([12.0, 12.4, 3.0], -1),
        ([3.0, 12.4, 12.0], 1),
        ([13.5, 12.0, 12.4], None),
        ([11.1, 12.4, 0.0], -0.5),
    ]:
        found = effect_agreement(shares, effects)
        assert found is not None and found.spearman == expected
        assert (found.pearson is None) == (found.top is None) == (expected is None)
        total = sum(effects)
        common = sum(min(s / 0.6, e / total) for s, e in zip(shares, effects))
        assert found.overlap == pytest.approx(common)
    # The largest share is on an object whose effect is similar to the largest.
    found = effect_agreement(shares, [0.0, 12.4, 12.0])
    assert found is not None and found.top == 1
    assert found.largest == pytest.approx(0.5)
    half = effect_agreement([0.3, 0.2, 0.3], [0.0, 0.0, 12.0])
    assert half is not None and half.top == 0.5
    assert rank_agreement(shares[:2], [12.0, 12.4]) is None
    assert rank_agreement(shares[:2], [12.0, 12.4], similar=0.0) == 1
    # Exactly the share, and more than it.
    assert rank_agreement(shares[:2], [3.0, 4.0], similar=0.25) == 1
    assert rank_agreement(shares[:2], [3.0, 4.0], similar=0.26) is None


def test_effects_that_tell_nothing() -> None:
    for effects in ([0.0, 0.0], [0.04, -3.0], []):
        shares = [0.1] * len(effects)
        assert effect_agreement(shares, effects) is None
        assert rank_agreement(shares, effects) is None
    for effects in ([1.5, 1.5], [7.0]):
        found = effect_agreement([0.1] * len(effects), effects)
        assert found is not None and found.overlap == pytest.approx(1)
        assert found.spearman is found.pearson is found.top is None
        assert rank_agreement([0.1] * len(effects), effects) is None
    assert effect_agreement([0.1, 0.2], [0.0, 0.05]) is not None
    assert effect_agreement([0.1, 0.2], [0.0, 0.05], negligible=0.06) is None
    assert effect_agreement([0.1, 0.2], [0.0, 1e-9], negligible=0.0) is not None


def test_what_has_no_agreement_is_refused() -> None:
    wrong: list[tuple[Any, Any, float, str]] = [
        ([0.1], [1.0, 2.0], 0.1, r"shapes \(1,\) and \(2,\)"),
        (torch.ones(2, 2), torch.ones(2, 2), 0.1, "in one dimension"),
        ([math.nan, 0.1], [1.0, 2.0], 0.1, "not finite"),
        ([0.1, 0.2], [1.0, math.inf], 0.1, "not finite"),
        ([0.1, 0.2], [1.0, 2.0], -0.1, "negligible must be a number of nats"),
        ([0.1, 0.2], [1.0, 2.0], math.nan, "negligible must be a number of nats"),
        ([-0.1, 0.2], [1.0, 2.0], 0.1, "must not be negative"),
    ]
    for shares, effects, negligible, message in wrong:
        with pytest.raises(ValueError, match=message):
            effect_agreement(shares, effects, negligible=negligible)
    for similar in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="similar must be a share"):
            rank_agreement([0.1, 0.2], [1.0, 2.0], similar=similar)


def test_removal_effects_by_a_pass_per_token() -> None:
    model, processor = load_vlm()
    scene = make_scene(3)
    inp = ImagePromptInput(scene.image, "Describe the image.", processor)
    method = VLMAttribution(LayerDexAR(model), processor)
    result = method.attribute(inp, "a red circle .")
    others = [scene.image_without(0), scene.image_without(0, 1)]
    found = removal_effects(model, inp, result, others)
    ids = result.target_ids.tolist()

    def literal(image: Image.Image) -> torch.Tensor:
        made = processor(images=image, text=inp.prompt, return_tensors="pt")
        return torch.tensor(literal_log_probs(model, made, ids), dtype=torch.float64)

    expected = torch.stack([literal(scene.image) - literal(one) for one in others])
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    one_by_one = removal_effects(model, inp, result, others, batch_size=1)
    torch.testing.assert_close(found, one_by_one, rtol=1e-5, atol=2e-5)
    assert removal_effects(model, inp, result, []).shape == (0, len(ids))
    with pytest.raises(ValueError, match="96 x 96 pixels, got 40 x 96"):
        removal_effects(model, inp, result, [scene.image.resize((40, 96))])
