"""PascalVOC, read from its published layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.evaluation import DamagedSample, evaluate, PascalVOC
from captum_dexar.metrics import soft_iou
from PIL import Image
from tests.evaluation.datasets.models import model_and_processor, NAMES, SHORT
from tests.helpers.published_layouts import noise, save_jpeg, write_voc

NAME = "2007_000033"


def _classes() -> np.ndarray:
    """An aeroplane (1) and a person (15), each in a band of void."""
    classes = np.zeros((40, 60), dtype=np.uint8)
    classes[4:20, 5:30] = 255
    classes[5:19, 6:29] = 1
    classes[25:40, 40:60] = 255
    classes[26:40, 41:60] = 15
    return classes


def _objects() -> torch.Tensor:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[5:19, 6:29] = True
    mask[26:40, 41:60] = True
    return mask


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    void = np.full((30, 30), 255, dtype=np.uint8)
    samples = {
        NAME: (noise(40, 60, 1), _classes()),
        "2008_000002": (noise(30, 30, 2), np.zeros((30, 30), dtype=np.uint8)),
        "2009_000003": (noise(30, 30, 3), void),
    }
    write_voc(tmp_path / "VOCdevkit", samples)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_end_to_end(root: Path, name: str) -> None:
    """The sequence map of the model's own answer against the union of all objects."""
    model, processor = model_and_processor(name)
    dataset = PascalVOC(root, processor, model)
    dexar = LayerDexAR(model)
    found = evaluate({"x": dexar}, dataset, processor=processor, gen_args=SHORT)
    assert found.num_regions == {"objects": 1, "all": 1}
    assert found.weight_auroc == {"x": None}
    path = root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{NAME}.jpg"
    inp = ImagePromptInput(path, "Classify the image.", processor, model)
    result = VLMAttribution(dexar, processor).attribute(inp, gen_args=SHORT)
    expected = soft_iou(result.pixel_map(), _objects())
    assert found.means["x"]["objects"]["soft-IoU"] == pytest.approx(expected)


@pytest.mark.parametrize("part", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_any_of_three(root: Path, part: str) -> None:
    dataset = PascalVOC(root / part, model_and_processor("bundled")[1])
    assert [dataset.sample_id(i) for i in range(3)] == [
        NAME,
        "2008_000002",
        "2009_000003",
    ]
    assert dataset.description()["name"] == "voc"
    examples: Any = list(dataset)
    first, nothing, void = examples
    ((tokens, mask, kind),) = first[2]
    assert first[1] is None and tokens is None and kind == "objects"
    assert torch.equal(mask, _objects())
    # Void is no object.
    assert nothing[2] == void[2] == []


def test_masks_and_images_lie_as_they_are_stored(tmp_path: Path) -> None:
    image = noise(40, 60)
    write_voc(tmp_path, {NAME: (image, _classes())}, orientation=6)
    path = tmp_path / "VOC2012" / "JPEGImages" / f"{NAME}.jpg"
    processor = model_and_processor("bundled")[1]
    assert ImagePromptInput(path, "what", processor).images[0].size == (40, 60)
    ((inp, _, _),) = PascalVOC(tmp_path, processor)
    assert inp.images[0].size == (60, 40)
    with Image.open(path) as stored:
        assert np.array_equal(np.asarray(inp.images[0]), np.asarray(stored))


def test_damaged_samples_are_skipped_and_listed(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    dataset: Any = PascalVOC(root, model_and_processor("bundled")[1])
    whole = dataset.description()

    def why() -> str:
        with pytest.warns(UserWarning, match=f"Sample {NAME} is skipped"):
            assert len(list(dataset)) == 2
        (damaged,) = dataset.skipped
        with pytest.raises(DamagedSample) as raised:
            dataset[0]
        assert str(raised.value) == str(damaged) and damaged.sample_id == NAME
        return damaged.reason

    image = folder / "JPEGImages" / f"{NAME}.jpg"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    assert "the image can't be read: image file is truncated" in why()
    image.write_bytes(b"no image")
    assert "the image can't be read: cannot identify" in why()
    image.unlink()
    assert why() == "the image is missing"
    save_jpeg(image, noise(60, 40))
    assert "60 x 40 pixels, but its mask 40 x 60" in why()
    image.write_bytes(content)
    mask = folder / "SegmentationClass" / f"{NAME}.png"
    palette_image = Image.open(mask)
    palette_image.convert("RGB").save(mask)
    assert "got one of mode RGB" in why()
    mask.unlink()
    assert why() == "the image is missing" and dataset.skipped[0].path == str(mask)
    palette_image.save(mask)
    assert len(list(dataset)) == 3 and dataset.skipped == []
    # Files of images don't decide whether runs are comparable.
    assert dataset.description() == whole


def test_bombs_are_damaged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both those that Pillow warns of, and those that it refuses."""
    dataset = PascalVOC(root, model_and_processor("bundled")[1])
    for most in (40 * 60 - 1, 40 * 60 // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(DamagedSample, match="decompression bomb"):
            dataset[0]


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    processor = model_and_processor("bundled")[1]
    with pytest.raises(FileNotFoundError, match="no folder .*/nowhere"):
        PascalVOC(tmp_path / "nowhere", processor)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="VOCdevkit/VOC2012/ImageSets") as error:
        PascalVOC(empty, processor)
    assert f"{empty}/ImageSets/Segmentation/val.txt" in str(error.value)
    folder = root / "VOCdevkit" / "VOC2012"
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1"):
        PascalVOC(root, processor, limit=0)
    (folder / "JPEGImages").rename(folder / "images")
    with pytest.raises(FileNotFoundError, match="Missing: PascalVOC's folder JPEGIm"):
        PascalVOC(root, processor)
    (folder / "images").rename(folder / "JPEGImages")
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.write_text(f"{NAME}\n{NAME}\n")
    with pytest.raises(ValueError, match=f"'{NAME}' is listed twice in .*val.txt"):
        PascalVOC(root, processor)
    listed.write_text("\n")
    with pytest.raises(ValueError, match="val.txt lists no image"):
        PascalVOC(root, processor)
    with pytest.raises(TypeError):
        PascalVOC(root, None)


def test_a_list_as_editors_save_it(root: Path) -> None:
    listed = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    listed.write_bytes(b"\xef\xbb\xbf" + listed.read_bytes().replace(b"\n", b"\r\n"))
    dataset = PascalVOC(root, model_and_processor("bundled")[1])
    assert dataset.sample_id(0) == NAME
    assert len(list(dataset)) == 3


def test_a_list_that_is_no_text(root: Path) -> None:
    listed = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="val.txt is damaged: it is no text in UTF-8"):
        PascalVOC(root, model_and_processor("bundled")[1])


def test_a_name_too_long_for_a_file(root: Path) -> None:
    listed = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    listed.write_text("x" * 5000)
    dataset = PascalVOC(root, model_and_processor("bundled")[1])
    with pytest.raises(DamagedSample, match="the image is missing"):
        dataset[0]
