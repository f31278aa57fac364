"""ImageNet's validation images, in both of their layouts."""

import os
from pathlib import Path

import pytest
import torch
from captum_dexar import compare, ImagePromptInput, LayerDexAR
from captum_dexar.evaluation import DamagedSample, ImageNetValidation
from PIL import Image
from tests.evaluation.datasets.models import model_and_processor, NAMES, SHORT
from tests.helpers.published_layouts import (
    noise,
    write_imagenet_flat,
    write_imagenet_folders,
)

CLASSES = ("n01440764", "n15075141")


@pytest.fixture(name="folders")
def _folders(tmp_path: Path) -> Path:
    root = tmp_path / "folders"
    images = {
        CLASSES[1]: [noise(30, 40, 1)],
        CLASSES[0]: [noise(50, 40, 2), noise(20, 20, 3)],
    }
    write_imagenet_folders(root / "val", images)
    (root / "val" / CLASSES[0] / "notes.txt").write_text("no image")
    return root


@pytest.fixture(name="flat")
def _flat(tmp_path: Path) -> Path:
    root = tmp_path / "flat"
    write_imagenet_flat(root, [noise(30, 40, i) for i in range(3)], [490, 361, 171])
    return root


@pytest.mark.parametrize("name", NAMES)
def test_end_to_end(folders: Path, flat: Path, name: str) -> None:
    model, processor = model_and_processor(name)
    dexar = LayerDexAR(model)
    images = {
        folders: f"val/{CLASSES[0]}/ILSVRC2012_val_00000002.JPEG",
        flat: "ILSVRC2012_val_00000001.JPEG",
    }
    for root, image in images.items():
        inp, target, regions = next(iter(ImageNetValidation(root, processor, model)))
        assert target is None and list(regions) == []  # type: ignore[arg-type]
        result = compare({"x": dexar}, inp, target, processor, SHORT).results["x"]
        same = ImagePromptInput(root / image, "Classify the image.", processor, model)
        expected = compare({"x": dexar}, same, None, processor, SHORT).results["x"]
        assert torch.equal(result.token_attr, expected.token_attr)


def test_a_folder_per_class(folders: Path) -> None:
    processor = model_and_processor("bundled")[1]
    for root in (folders, folders / "val"):
        dataset = ImageNetValidation(root, processor)
        assert [dataset.sample_id(i) for i in range(len(dataset))] == [
            f"{CLASSES[0]}/ILSVRC2012_val_00000002.JPEG",
            f"{CLASSES[0]}/ILSVRC2012_val_00000003.JPEG",
            f"{CLASSES[1]}/ILSVRC2012_val_00000001.JPEG",
        ]
        labels = [dataset.label(i) for i in range(3)]
        assert labels == [CLASSES[0], CLASSES[0], CLASSES[1]]
        assert [inp.images[0].height for inp, _, _ in dataset] == [50, 20, 30]


def test_all_images_in_one_folder(flat: Path, tmp_path: Path) -> None:
    processor = model_and_processor("bundled")[1]
    dataset = ImageNetValidation(flat, processor)
    assert dataset.sample_id(2) == "ILSVRC2012_val_00000003.JPEG"
    assert [dataset.label(i) for i in range(3)] == [490, 361, 171]
    truth = flat / "ILSVRC2012_validation_ground_truth.txt"
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    truth.rename(kit / truth.name)
    same = ImageNetValidation(flat, processor)
    assert [same.label(i) for i in range(3)] == [490, 361, 171]
    assert same.description() == dataset.description()
    (kit / truth.name).unlink()
    unknown = ImageNetValidation(flat, processor)
    assert [unknown.label(i) for i in range(3)] == [None] * 3
    assert unknown.description() != dataset.description()


def test_modes_that_imagenet_has(flat: Path) -> None:
    """Grey and CMYK JPEG files, and a PNG by the name of a JPEG."""
    picture = noise(30, 40)
    paths = sorted(flat.glob("*.JPEG"))
    picture.convert("L").save(paths[0], format="JPEG")
    picture.convert("CMYK").save(paths[1], format="JPEG")
    picture.convert("RGBA").save(paths[2], format="PNG")
    dataset = ImageNetValidation(flat, model_and_processor("bundled")[1])
    assert [inp.images[0].mode for inp, _, _ in dataset] == ["RGB"] * 3
    assert dataset.skipped == []


def test_what_is_wrong_is_said(flat: Path, folders: Path, tmp_path: Path) -> None:
    processor = model_and_processor("bundled")[1]
    with pytest.raises(FileNotFoundError, match="no folder of a class") as error:
        ImageNetValidation(tmp_path, processor)
    assert f"{tmp_path}/val, {tmp_path}/ILSVRC2012_img_val" in str(error.value)
    truth = flat / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("490\n361\n")
    with pytest.raises(ValueError, match="no line 3, for the image ILSVRC2012_val_0"):
        ImageNetValidation(flat, processor)
    truth.write_text("490\n<html>\n171\n")
    with pytest.raises(ValueError, match="line 2 must be the number .* got '<html>'"):
        ImageNetValidation(flat, processor)
    truth.unlink()
    image = flat / "ILSVRC2012_val_00000002.JPEG"
    Image.new("RGB", (1, 1)).save(image, format="JPEG")
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DamagedSample, match="00000002.JPEG is skipped: the image can"):
        ImageNetValidation(flat, processor)[1]
    for path in folders.glob("val/*/*.JPEG"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="hold no image"):
        ImageNetValidation(folders, processor)


def test_a_flat_folder_may_have_the_suffix_jpg(flat: Path) -> None:
    for path in flat.glob("*.JPEG"):
        path.rename(path.with_suffix(".jpg"))
    dataset = ImageNetValidation(flat, model_and_processor("bundled")[1])
    assert dataset.sample_id(0) == "ILSVRC2012_val_00000001.jpg"
    assert [dataset.label(index) for index in range(3)] == [490, 361, 171]
    assert len(list(dataset)) == 3


def test_the_ground_truth_as_editors_save_it(flat: Path) -> None:
    truth = flat / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes(b"\xef\xbb\xbf490\r\n361\r\n171\r\n\r\n")
    dataset = ImageNetValidation(flat, model_and_processor("bundled")[1])
    assert [dataset.label(index) for index in range(3)] == [490, 361, 171]


@pytest.mark.parametrize(
    "content, message",
    [
        ("490\n\n171\n".encode(), "line 2 must be the number of a class, got ''"),
        ("490\n\u00b2\n171\n".encode(), "line 2 must be the number of a class"),
        (b"490\n\xff\n", "is no text in UTF-8"),
    ],
)
def test_a_damaged_ground_truth(flat: Path, content: bytes, message: str) -> None:
    truth = flat / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes(content)
    with pytest.raises(ValueError, match=f"{truth.name} is damaged: .*{message}"):
        ImageNetValidation(flat, model_and_processor("bundled")[1])


def test_a_name_that_is_no_text(folders: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    try:
        noise(20, 20).save(folders / "val" / CLASSES[0] / name)
    except OSError:
        pytest.skip("the file system takes no such names")
    with pytest.raises(ValueError, match="is no text in UTF-8. Rename it."):
        ImageNetValidation(folders, model_and_processor("bundled")[1])
