"""COCO's captions, and the masks of what their nouns name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.evaluation import COCOCaptions, DamagedSample, evaluate
from captum_dexar.evaluation.datasets.coco import mask_of
from captum_dexar.evaluation.datasets.coco_words import (
    categories_by_name,
    named_categories,
    plain,
    SYNONYMS,
)
from captum_dexar.evaluation.function_words import FUNCTION_WORDS
from captum_dexar.metrics import soft_iou
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation, binary_erosion
from tests.evaluation.datasets.models import model_and_processor, NAMES, SHORT
from tests.helpers.plain_prompt_processors import tokenizer_of
from tests.helpers.published_layouts import noise, save_jpeg, write_coco

HEIGHT, WIDTH = 40, 60
CATEGORIES = {1: "person", 18: "dog", 64: "potted plant", 90: "circle", 91: "square"}
CAPTION = "a red circle left of a blue square"
# Words that are neither a category nor a function word: red, left, blue.
CIRCLE, SQUARE = 2, 7
FILLERS = [0, 4, 5]


def _runs(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, of zeros first."""
    flat = mask.T.flatten().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def _box(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _polygon(y0: int, x0: int, y1: int, x1: int) -> list[float]:
    return [float(value) for value in (x0, y0, x1, y0, x1, y1, x0, y1)]


def _uncompressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": _runs(mask)}


def _compressed(mask: np.ndarray) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def _write(root: Path, **options: Any) -> None:
    images = {139: noise(HEIGHT, WIDTH, 1), 285: noise(HEIGHT, WIDTH, 2)}
    images[632] = noise(HEIGHT, WIDTH, 3)
    captions = [
        (139, f" {CAPTION}\n"),
        (285, "  "),
        (285, "a square"),
        (139, "another caption"),
    ]
    instances = [
        (139, 90, [_polygon(5, 5, 15, 15), _polygon(20, 5, 30, 15)], False),
        (139, 91, _uncompressed(_box(5, 30, 15, 50)), True),
        (139, 91, _compressed(_box(25, 30, 35, 50)), False),
        (139, 18, [_polygon(0, 0, 5, 5)], False),
        (285, 90, [_polygon(0, 0, 5, 5)], False),
    ]
    write_coco(root, images, captions, instances, CATEGORIES, **options)


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    _write(tmp_path)
    return tmp_path


MASKS = {
    "circle": _box(5, 5, 15, 15) | _box(20, 5, 30, 15),
    "square": _box(5, 30, 15, 50) | _box(25, 30, 35, 50),
}


@pytest.mark.parametrize("name", NAMES)
def test_end_to_end(root: Path, name: str) -> None:
    """Each noun of the caption against the masks of its category."""
    model, processor = model_and_processor(name)
    dexar = LayerDexAR(model)
    dataset = COCOCaptions(root, processor, model)
    assert len(dataset) == 2 and dataset.sample_id(0) == "139"
    found = evaluate({"x": dexar}, [dataset[0]], processor=processor)
    assert found.num_regions == {"object": 2, "all": 2}
    path = root / "val2017" / "000000000139.jpg"
    inp = ImagePromptInput(path, "Describe the image.", processor, model)
    result = VLMAttribution(dexar, processor).attribute(inp, CAPTION)
    expected = [
        soft_iou(result.pixel_map(token), torch.from_numpy(MASKS[noun]))
        for token, noun in ((CIRCLE, "circle"), (SQUARE, "square"))
    ]
    mean = sum(expected) / 2
    assert found.means["x"]["object"]["soft-IoU"] == pytest.approx(mean)
    weights = result.token_weights
    pairs = [(weights[a], weights[b]) for a in (CIRCLE, SQUARE) for b in FILLERS]
    auroc = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert found.weight_auroc["x"] == pytest.approx(float(auroc))


def test_regions_of_the_models_own_answer(root: Path) -> None:
    model, processor = model_and_processor("bundled")
    dataset = COCOCaptions(root, processor, own_answer=True)
    inp, target, regions = dataset[1]
    assert target is None and callable(regions)
    attribution = VLMAttribution(LayerDexAR(model), processor)
    own = attribution.attribute(inp, gen_args=SHORT)
    assert all(mask is None for _, mask in regions(own))  # type: ignore[misc]
    # The image has no square, and a circle.
    told = attribution.attribute(inp, "the image shows a square and a circle .")
    assert [(list(tokens), kind) for tokens, _, *kind in regions(told)] == [
        ([0], []),
        ([3], []),
        ([5], []),
        ([6], []),
        ([7], ["object"]),
    ]
    captioned = COCOCaptions(root, processor)
    assert captioned.description() != dataset.description()
    assert captioned[1][1] == "a square"


def test_synonyms_and_plurals_end_to_end(tmp_path: Path) -> None:
    """Words of several tokens, and of several words."""
    images = {139: noise(HEIGHT, WIDTH)}
    person, plant = _box(0, 0, 10, 10), _box(20, 20, 30, 30)
    instances = [
        (139, 1, _compressed(person), False),
        (139, 64, _compressed(plant), False),
    ]
    caption = "Men left of the potted plants , dogs ."
    write_coco(tmp_path, images, [(139, caption)], instances, CATEGORIES)
    model, processor = model_and_processor("paligemma")
    words = ("Men", "potted", "plants", ",", "dogs", ".", "Describe")
    named: Any = {"image_token": "<image>"}
    processor = type(processor)(
        processor.image_processor, tokenizer_of("<image>", *words, **named)
    )
    inp, target, regions = COCOCaptions(tmp_path, processor)[0]
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target)
    assert callable(regions)
    found = [(list(tokens), mask, *kind) for tokens, mask, *kind in regions(result)]
    assert [tokens for tokens, *_ in found] == [[0], [2], [3], [4, 5]]
    assert [one[1:] for one in found[1:3]] == [(None,)] * 2
    assert np.array_equal(found[0][1], person) and np.array_equal(found[3][1], plant)


def test_masks_equal_drawn_ones() -> None:
    ring = [(30.0, 3.0), (50.0, 12.0), (44.0, 33.0), (12.0, 30.0), (8.0, 10.0)]
    flat = [value for corner in ring for value in corner]
    drawn = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(drawn).polygon(ring, fill=1)
    expected = np.asarray(drawn)
    found = mask_of([flat], HEIGHT, WIDTH)
    # They may differ on the outline only.
    assert not (binary_erosion(expected, iterations=2) & ~found).any()
    assert not (found & ~binary_dilation(expected)).any()
    rng = np.random.default_rng(0)
    for mask in (rng.random((HEIGHT, WIDTH)) < 0.5, _box(0, 0, 3, 3), expected):
        for made in (_uncompressed(mask), _compressed(mask)):
            assert np.array_equal(mask_of(made, HEIGHT, WIDTH), mask)
    assert not mask_of([], HEIGHT, WIDTH).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "at least three corners"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], "at least three corners"),
        ({"size": [WIDTH, HEIGHT], "counts": [10]}, "its size is"),
        ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, "don't fill the image"),
        ({"size": [HEIGHT, WIDTH], "counts": "nonsense"}, ""),
        ({"size": [HEIGHT, WIDTH]}, "counts"),
        ({}, "size"),
    ],
)
def test_damaged_masks_are_damaged_samples(
    tmp_path: Path, segmentation: Any, message: str
) -> None:
    images = {139: noise(HEIGHT, WIDTH)}
    instances = [(139, 18, segmentation, False)]
    write_coco(tmp_path, images, [(139, "a dog")], instances, CATEGORIES)
    dataset = COCOCaptions(tmp_path, model_and_processor("bundled")[1])
    with pytest.raises(DamagedSample, match=f"segmentation of a dog.*{message}"):
        dataset[0]


def test_2014_and_stored_pixels(tmp_path: Path) -> None:
    _write(tmp_path / "both", split="val2014", orientation=8)
    processor = model_and_processor("bundled")[1]
    dataset = COCOCaptions(tmp_path / "both", processor)
    assert [inp.images[0].size for inp, _, _ in dataset] == [(WIDTH, HEIGHT)] * 2
    (tmp_path / "both" / "images").mkdir()
    (tmp_path / "both" / "val2014").rename(tmp_path / "both" / "images" / "val2014")
    assert len(list(COCOCaptions(tmp_path / "both", processor))) == 2
    _write(tmp_path / "both")
    # The newer one is preferred.
    newer = COCOCaptions(tmp_path / "both", processor)
    assert newer.description() != dataset.description()


def test_what_is_wrong_is_said(root: Path) -> None:
    processor = model_and_processor("bundled")[1]
    save_jpeg(root / "val2017" / "000000000139.jpg", noise(WIDTH, HEIGHT))
    with pytest.raises(DamagedSample, match="60 x 40 pixels, but its mask 40 x 60"):
        COCOCaptions(root, processor)[0]
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "categories": content["categories"][:1]}))
    with pytest.raises(ValueError, match="of the category 90, which is not in its"):
        COCOCaptions(root, processor)
    path.write_text(json.dumps({**content, "annotations": {"1": 2}}))
    with pytest.raises(ValueError, match="with a list 'annotations', which is missing"):
        COCOCaptions(root, processor)
    path.write_text(path.read_text()[:300])
    with pytest.raises(ValueError, match="instances_val2017.json is damaged: it is no"):
        COCOCaptions(root, processor)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="Looked for: .*instances_val2017.json"):
        COCOCaptions(root, processor)
    (root / "annotations" / "captions_val2017.json").unlink()
    with pytest.raises(FileNotFoundError, match="captions_val2017.*captions_val2014"):
        COCOCaptions(root, processor)


def test_words() -> None:
    names = ["person", "bicycle", "bus", "traffic light", "sports ball", "wine glass"]
    names += ["knife", "sheep", "motorcycle", "skis", "bench", "cell phone", "cup"]
    by_name = categories_by_name(names)

    def named(caption: str) -> list[tuple[str, tuple[str, ...]]]:
        words = [plain(word) for word in caption.split()]
        return [
            (" ".join(words[start:stop]), categories)
            for start, stop, categories in named_categories(words, by_name)
        ]

    assert named('Two men\'s "BUSES", near traffic lights.') == [
        ("men", ("person",)),
        ("buses", ("bus",)),
        ("traffic lights", ("traffic light",)),
    ]
    assert named("Women and children (on bikes) with knives!") == [
        ("women", ("person",)),
        ("children", ("person",)),
        ("bikes", ("bicycle", "motorcycle")),
        ("knives", ("knife",)),
    ]
    assert named("a lady's balls, a glass, benches, skis, sheep, a cellphone") == [
        ("lady", ("person",)),
        ("balls", ("sports ball",)),
        ("glass", ("wine glass", "cup")),
        ("benches", ("bench",)),
        ("skis", ("skis",)),
        ("sheep", ("sheep",)),
        ("cellphone", ("cell phone",)),
    ]
    assert named("ladies sitting in the grass; a light, a personal bust - is") == [
        ("ladies", ("person",))
    ]
    assert plain("’tis,") == "tis" and plain("...") == ""


def test_no_function_word_names_a_category() -> None:
    words = {word for words in SYNONYMS.values() for word in words} | set(SYNONYMS)
    assert not words & FUNCTION_WORDS


def test_compressed_run_lengths_are_read_whole() -> None:
    """As pycocotools reads them; it decodes what is cut off to arbitrary memory."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        mask = rng.random((height, width)) > rng.random()
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = runs["counts"].decode()
        made = {"size": [height, width], "counts": text}
        assert np.array_equal(mask_of(made, height, width), mask)
        for stop in range(len(text)):
            with pytest.raises(ValueError, match="run lengths"):
                mask_of({**made, "counts": text[:stop]}, height, width)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [4, 6], "counts": [2.5, 21.5]}, "not whole numbers of pixels"),
        ({"size": [4, 6], "counts": "~"}, "'~' is no character"),
        ({"size": [4, 6]}, "run lengths lack counts"),
        ({}, "run lengths lack size and counts"),
        ([[0.0, 0.0, 1e10, 0.0, 1e10, 1e10]], "nowhere near the image"),
        ([[0.0, 0.0, float("nan"), 0.0, 1.0, 1.0]], "nowhere near the image"),
    ],
)
def test_damaged_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_of(segmentation, 4, 6)
