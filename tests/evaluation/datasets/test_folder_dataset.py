"""What all datasets that are read from a folder share."""

import errno
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar.evaluation import (
    DamagedSample,
    EvaluationDataset,
    ImageNetValidation,
    PascalVOC,
)
from captum_dexar.evaluation.dataset import Example
from PIL import Image
from tests.evaluation.datasets.models import model_and_processor
from tests.helpers.plain_prompt_processors import paligemma_processor
from tests.helpers.published_layouts import noise, write_imagenet_flat, write_voc


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    classes = np.ones((8, 8))
    names = [f"2007_{number:06}" for number in range(30)]
    write_voc(tmp_path, {name: (noise(8, 8), classes) for name in names})
    return tmp_path


def _ids(dataset: EvaluationDataset) -> list[str]:
    return [dataset.sample_id(index) for index in range(len(dataset))]


def test_a_limit_draws_samples_in_their_order(root: Path) -> None:
    processor = model_and_processor("bundled")[1]
    every = PascalVOC(root, processor)
    drawn = PascalVOC(root, processor, limit=10, seed=3)
    assert len(drawn) == len(set(_ids(drawn))) == 10
    assert _ids(drawn) == sorted(_ids(drawn)) and set(_ids(drawn)) < set(_ids(every))
    assert _ids(PascalVOC(root, processor, limit=10, seed=3)) == _ids(drawn)
    other = PascalVOC(root, processor, limit=10, seed=4)
    assert _ids(other) != _ids(drawn)
    assert _ids(PascalVOC(root, processor, limit=99, seed=4)) == _ids(every)
    assert other.description() != drawn.description()
    # Without a limit the seed decides nothing.
    assert PascalVOC(root, processor, seed=5).description() == every.description()
    assert str(root) not in str(drawn.description())
    with pytest.raises(IndexError, match="has 10 samples, got 10"):
        drawn[10]


def test_copies_read_the_same_index(root: Path) -> None:
    dataset: Any = PascalVOC(root, model_and_processor("bundled")[1], limit=7)
    copy = pickle.loads(pickle.dumps(dataset))
    assert _ids(copy) == _ids(dataset)
    assert copy.description() == dataset.description()
    assert torch.equal(copy[2][2][0][1], dataset[2][2][0][1])
    # Nothing is read again as long as the first one lives.
    listed = root / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    lines = listed.read_text()
    listed.write_text("2007_000001\n")
    content = pickle.dumps(dataset)
    assert _ids(pickle.loads(content)) == _ids(dataset)
    expected = _ids(dataset)
    del dataset, copy
    with pytest.raises(ValueError, match="The annotations on this machine are not th"):
        pickle.loads(content)
    listed.write_text(lines)
    assert _ids(pickle.loads(content)) == expected
    shutil.rmtree(root / "VOC2012")
    with pytest.raises(FileNotFoundError):
        pickle.loads(content)


def test_the_index_goes_with_its_dataset(root: Path) -> None:
    dataset: Any = PascalVOC(root, model_and_processor("bundled")[1])
    other = dataset.for_model(paligemma_processor())
    path = dataset._index._path
    del dataset
    assert path.exists() and len(_ids(other)) == 30
    del other
    assert not path.exists()


def test_the_same_samples_for_another_model(root: Path) -> None:
    model, processor = model_and_processor("paligemma")
    dataset = PascalVOC(root, model_and_processor("bundled")[1], limit=3)
    other = dataset.for_model(processor, model)
    assert _ids(other) == _ids(dataset) and other.description() == dataset.description()
    assert dataset.model is None and other.model is model
    assert dataset[0][0].layout.num_tokens == 144
    assert other[0][0].layout.num_tokens == 16


def test_a_processor_is_tried_before_images_are_blamed(root: Path) -> None:
    with pytest.raises(TypeError):
        PascalVOC(root, "no processor")


def test_an_image_that_the_processor_refuses_is_damaged(tmp_path: Path) -> None:
    """Qwen-VL's processors take no image 200 times longer than wide."""
    from tests.helpers.patch_grid_processors import grid_processor

    write_imagenet_flat(tmp_path, [noise(40, 40), noise(2, 600), noise(30, 30)])
    dataset = ImageNetValidation(tmp_path, grid_processor("qwen2_vl"))
    with pytest.warns(
        UserWarning, match="00000002.JPEG is skipped: the image can't be"
    ):
        assert len(list(dataset)) == 2
    assert "aspect ratio" in dataset.skipped[0].reason


def test_a_disk_that_fails_is_no_damaged_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a sample can be measured later, and must not be noted as damaged."""
    dataset = PascalVOC(root, model_and_processor("bundled")[1], limit=1)

    def fail(*arguments: Any, **more: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        dataset[0]


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3"])
def test_a_limit_is_a_positive_number(root: Path, limit: Any) -> None:
    with pytest.raises(ValueError, match="limit must be a whole number"):
        PascalVOC(root, model_and_processor("bundled")[1], limit=limit)


def test_reading_from_threads(root: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    dataset = PascalVOC(root, model_and_processor("bundled")[1])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(dataset.sample_id, 20 * [*range(30)]))
    assert found == 20 * _ids(dataset)


class Numbers(EvaluationDataset):
    """A user's own dataset."""

    name = "numbers"

    def __len__(self) -> int:
        return 4

    def sample_id(self, index: int) -> str:
        return f"number {index}"

    def __getitem__(self, index: int) -> Example:
        if index in (1, 3):
            raise DamagedSample(self.sample_id(index), f"{index}.jpg", "odd")
        return index, None, ()


def test_a_dataset_of_ones_own() -> None:
    dataset = Numbers(None)
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="number 1 is skipped: odd .1.jpg"),
            pytest.warns(UserWarning, match="number 3 is skipped: odd .3.jpg"),
        ):
            assert [inp for inp, _, _ in dataset] == [0, 2]
        assert [one.sample_id for one in dataset.skipped] == ["number 1", "number 3"]
    assert dataset.image_id(2) == "number 2"
    assert dataset.description() == {"name": "numbers", "samples": 4}
    damaged, _ = dataset.skipped
    copy = pickle.loads(pickle.dumps(damaged))
    assert str(copy) == str(damaged) and copy.path == "1.jpg"
    with pytest.raises(TypeError, match="abstract"):
        EvaluationDataset(None)  # type: ignore[abstract]
