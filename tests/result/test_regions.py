"""Regions of maps: what they hold, against scipy and pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.coco import run_lengths
from captum_dexar.result.selection import chosen_word
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage
from tests.result.test_result import make_result, make_signed_result, SIZE


def drawn_by_hand(**changes: Any) -> VLMAttributionResult:
    """One token, whose map is 1 and 0.5 in two cells of 10 x 10 pixels, not adjacent.

    Segments are not interpolated, so that regions can be computed by hand.
    """
    labels = torch.arange(12).view(3, 4).repeat_interleave(10, 0)
    labels = labels.repeat_interleave(10, 1)
    layout = SegmentLayout.of_labels(labels.int()[None], tuple("abcdefghijkl"))
    values = torch.zeros(1, 12)
    values[0, 0], values[0, 6] = 4.0, 2.0
    fields: dict[str, Any] = {
        "output_tokens": ["cat"],
        "target_ids": torch.tensor([3]),
        "token_attr": values,
        "seq_attr": values[0],
        "layout": layout,
        "images": [Image.new("RGB", (40, 30))],
        "token_weights": torch.tensor([0.75]),
    }
    return VLMAttributionResult(**{**fields, **changes})


def two_images() -> VLMAttributionResult:
    """On images of 20 x 20 and of 40 x 40 pixels with equally many tokens."""
    sizes = ((20, 20), (40, 40))
    views = tuple(
        View("full", (2, 2), (0.0, 0.0, float(side), float(side)), 4 * image, image)
        for image, (side, _) in enumerate(sizes)
    )
    values = torch.tensor([[8.0, 0, 0, 0, 0, 0, 8.0, 0]])
    return make_result(
        output_tokens=["cat"],
        target_ids=torch.tensor([3]),
        token_attr=values,
        seq_attr=values[0],
        layout=ImageLayout(8, views, sizes),
        images=[Image.new("RGB", size) for size in sizes],
        token_weights=torch.ones(1),
        **dict.fromkeys(
            (
                "placeless_attr",
                "token_log_probs",
                "head_weights",
                "layer_attr",
                "layer_indices",
                "special_tokens",
                "word_starts",
            )
        ),
    )


def test_regions_of_a_map_computed_by_hand() -> None:
    first, second = drawn_by_hand().regions("cat", threshold=0.25)
    assert first.box == (0, 0, 10, 10) and second.box == (10, 20, 20, 30)
    assert first.area == second.area == 100
    assert first.share == pytest.approx(2 / 3) and second.share == pytest.approx(1 / 3)
    assert first.crop.all() and first.crop.shape == (10, 10)
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[10:20, 20:30] = True
    assert torch.equal(second.mask, mask)
    assert first.text == "cat" and first.tokens == (0,) and first.sign == 1
    (only,) = drawn_by_hand().regions("cat", threshold=0.5)
    assert only.box == first.box and only.share == first.share


@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("make", [make_result, make_signed_result])
def test_regions_are_those_of_scipy(make: Any, threshold: float) -> None:
    result = make()
    for word in (None, 0, 1, 2):
        selection = None if word is None else result.words()[word]
        heat = result.pixel_map(selection).numpy()
        regions = result.regions(word, threshold)
        for sign in (1, -1):
            found, count = ndimage.label(sign * heat > threshold, np.ones((3, 3)))
            own = [region for region in regions if region.sign == sign]
            assert len(own) == count
            for region in own:
                (number,) = set(found[region.mask.numpy()].tolist())
                assert np.array_equal(region.mask.numpy(), found == number)
                y, x = np.nonzero(found == number)
                box = (y.min(), x.min(), y.max() + 1, x.max() + 1)
                assert region.box == box and region.area == len(y)
                share = np.abs(heat[found == number]).sum() / np.abs(heat).sum()
                assert region.share == pytest.approx(share, rel=1e-5)
        shares = [region.share for region in regions]
        assert shares == sorted(shares, reverse=True)
        if heat.any():
            below = np.abs(heat)[np.abs(heat) <= threshold].sum() / np.abs(heat).sum()
            assert sum(shares) == pytest.approx(1 - below, rel=1e-5)


def test_signed_maps_have_regions_of_both_signs() -> None:
    signs = {region.sign for region in make_signed_result().regions(0, 0.2)}
    assert signs == {1, -1}
    assert {region.sign for region in make_result().regions(0, 0.2)} == {1}


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    values = torch.zeros(1, 12)
    values[0, [0, 5]] = 1.0
    (region,) = drawn_by_hand(token_attr=values, seq_attr=values[0]).regions(0)
    assert region.box == (0, 0, 20, 20) and region.area == 200


def test_a_zero_map_has_no_region() -> None:
    assert make_result().regions(2) == [] and make_result().regions([3], 0) == []
    flat = torch.ones(1, 12)
    assert drawn_by_hand(token_attr=flat, seq_attr=flat[0]).regions() == []
    empty = torch.full((1, 12), torch.nan)
    assert drawn_by_hand(token_attr=empty, seq_attr=empty[0]).regions(0, 0) == []
    assert make_result().coco_regions([2])["annotations"] == []


def test_shares_are_of_all_images() -> None:
    """Half of the attribution is on each, though one has four times the pixels."""
    result = two_images()
    shares = []
    for image, side in enumerate((20, 40)):
        regions = result.regions(0, 0, image)
        assert {region.image for region in regions} == {image}
        assert {region.image_size for region in regions} == {(side, side)}
        shares.append(sum(region.share for region in regions))
    assert shares[0] == pytest.approx(0.5, abs=0.02) and sum(shares) == pytest.approx(1)
    alone = result.of_image(1).regions(0, 0)
    assert sum(region.share for region in alone) == pytest.approx(1)
    dataset = result.coco_regions(threshold=0.5)
    assert [one["image_id"] for one in dataset["annotations"]] == [1, 2]
    assert [(one["width"], one["height"]) for one in dataset["images"]] == [
        (20, 20),
        (40, 40),
    ]


def test_regions_lie_where_several_views_are_composed() -> None:
    views = (
        View("global", (2, 2), (0.0, 0.0, 40.0, 60.0), 0),
        View("tile", (2, 2), (0.0, 0.0, 40.0, 30.0), 4),
    )
    values = torch.zeros(1, 8)
    values[0, 5] = 1.0  # the upper right token of the tile on the left
    result = drawn_by_hand(
        token_attr=values,
        seq_attr=values[0],
        layout=ImageLayout(8, views, (SIZE,)),
        images=[],
    )
    (region,) = result.regions()
    y0, x0, y1, x1 = region.box
    assert 0 <= y0 < y1 <= 25 and 10 <= x0 < x1 <= 35
    assert torch.equal(region.mask, result.pixel_map() > 0.5)


def test_words_are_chosen_by_index_text_or_tokens() -> None:
    result: Any = make_result()
    violet = result.words()[1]
    same = (1, -2, np.int64(1), torch.tensor(1), "violet", violet, (1, 3), [1, 2])
    expected = result.regions(violet, 0.2)
    assert expected
    for choice in (*same, np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)):
        found = result.regions(choice, 0.2)
        assert [r.box for r in found] == [r.box for r in expected], choice
        assert {r.tokens for r in found} == {(1, 2)}
    # A list of one is a token, and so is a tensor with an axis.
    assert result.regions([1], 0.2)[0].tokens == (1,)
    assert result.regions(torch.tensor([1]), 0.2)[0].tokens == (1,)
    assert {region.text for region in result.regions(None, 0.2)} == {"a violet ."}
    assert {region.tokens for region in result.regions(None, 0.2)} == {(0, 1, 2, 3, 4)}


def test_punctuation_may_be_left_out_of_a_words_text() -> None:
    changes: dict[str, Any] = {
        "output_tokens": ["a", "cat", ",", "a", "</s>"],
        "word_starts": torch.tensor([True, True, False, True, True]),
    }
    words = make_result(**changes).words()
    assert chosen_word("cat,", words) == chosen_word("cat", words) == words[1]
    with pytest.raises(ValueError, match=r"'a' occurs 2 times .* words\(\): 0, 2"):
        chosen_word("a", words)
    with pytest.raises(ValueError, match="no word 'dog'. Its words are 'a', 'cat,'"):
        chosen_word("dog", words)


def test_unknown_words_thresholds_and_places_are_refused() -> None:
    result: Any = make_result()
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"has 3 words, got the index {index}"):
            result.regions(index)
    for tokens in ([9], [], (2, 99)):
        with pytest.raises(IndexError, match="The answer has 5 tokens"):
            result.regions(tokens)
    for wrong in (True, 1.0, object()):
        with pytest.raises(TypeError):
            result.regions(wrong)
    for threshold in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold is compared with maps"):
            result.regions(0, threshold)
    for odd in ("0.5", False, True, None):
        with pytest.raises(TypeError, match=f"threshold must be a number, got {odd!r}"):
            result.regions(0, odd)
    with pytest.raises(IndexError, match="The prompt has 1 image"):
        result.regions(0, image=1)
    unknown = make_result(
        layout=ImageLayout(9, (View("full", (2, 4), None, 1),), None), images=[]
    )
    for use in (unknown.regions, unknown.coco_regions):
        with pytest.raises(ValueError, match="original image is not known"):
            use()


def test_run_lengths_are_those_of_pycocotools() -> None:
    generator = np.random.default_rng(0)
    masks = [generator.random((37, 53)) < share for share in (0, 0.02, 0.5, 0.98, 1)]
    block = np.zeros((300, 400), dtype=bool)
    block[100:250, 5:390] = True
    for mask in (*masks, block, ~block, np.ones((1, 1), bool)):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = run_lengths(torch.from_numpy(mask))
        assert ours["size"] == list(mask.shape)
        assert ours["counts"].encode() == expected["counts"]


def test_the_file_is_read_by_pycocotools(tmp_path: Path) -> None:
    result = make_signed_result()
    result.save_regions(tmp_path / "regions.json", threshold=0.2)
    data = COCO(str(tmp_path / "regions.json"))
    regions = [
        region for word in result.words() for region in result.regions(word, 0.2)
    ]
    assert len(data.anns) == len(regions) > 4
    for number, region in enumerate(regions, 1):
        one = data.anns[number]
        assert np.array_equal(data.annToMask(one), region.mask.numpy().astype(np.uint8))
        assert one["area"] == coco_mask.area(data.annToRLE(one)) == region.area
        assert one["bbox"] == coco_mask.toBbox(data.annToRLE(one)).tolist()
        assert one["score"] == region.share and one["sign"] == region.sign
        assert one["iscrowd"] == 0
        assert data.cats[one["category_id"]]["name"] == region.text
        assert result.words()[one["word"]].tokens == region.tokens
    assert data.imgs[1] == {
        "id": 1,
        "width": SIZE[1],
        "height": SIZE[0],
        "file_name": "image0.png",
    }
    # Detections with scores, as COCO's own evaluation takes them.
    assert len(data.loadRes(data.dataset["annotations"]).anns) == len(regions)


def test_a_repeated_word_is_one_category() -> None:
    result = make_result(output_tokens=["a", "a", "", "b", "</s>"])
    dataset = result.coco_regions(threshold=0.1, file_names=["photo.jpg"])
    names = [one["name"] for one in dataset["categories"]]
    assert names.count("a") == 1 and dataset["images"][0]["file_name"] == "photo.jpg"
    assert {one["word"] for one in dataset["annotations"]} >= {0, 1}
    assert dataset["info"]["answer"] == result.answer
    with pytest.raises(ValueError, match="a name for each of the 1 images"):
        result.coco_regions(file_names=["a", "b"])
    with pytest.raises(TypeError, match="words must be a list"):
        result.coco_regions("a")


HOSTILE = ["<script>alert(1)</script>", '"],}', "\x00\x1b[31m", "\u202e", "\ud800"]


def test_hostile_words_are_only_text(tmp_path: Path) -> None:
    result = make_result(
        output_tokens=HOSTILE,
        special_tokens=None,
        word_starts=None,
        token_weights=torch.tensor([torch.inf, torch.nan, 1.0, 0.0, 2.0]),
    )
    result.save_regions(tmp_path / "x.json", [[token] for token in range(5)], 0)
    data = json.loads((tmp_path / "x.json").read_text())
    texts = [one["name"] for one in data["categories"]]
    assert texts == [word for word, map in zip(HOSTILE, result.token_maps) if map.any()]
    assert {one["weight"] for one in data["annotations"]} == {None, 1.0, 2.0}


def test_a_large_photo_is_labelled_in_its_own_pixels() -> None:
    size = (1500, 2000)
    view = View("full", (2, 4), (0.0, 0.0, 1500.0, 2000.0), 1)
    result = make_result(layout=ImageLayout(9, (view,), (size,)), images=[])
    regions = result.regions(0)
    union = torch.stack([region.mask for region in regions]).any(0)
    assert torch.equal(union, result.pixel_map(0) > 0.5)
    # Only what lies in the box is kept.
    assert all(
        r.crop.shape == (r.box[2] - r.box[0], r.box[3] - r.box[1]) for r in regions
    )
