"""VQAv2, read from its published JSON files."""

import json
from pathlib import Path

import pytest
import torch
from captum_dexar import compare, ImagePromptInput, LayerDexAR
from captum_dexar.evaluation import DamagedSample, VQAv2
from tests.evaluation.datasets.models import model_and_processor, NAMES, SHORT
from tests.helpers.published_layouts import noise, write_vqav2

QUESTIONS = [
    (42000, 42, "what is in the image ?"),
    (42001, 42, "is there a circle ?"),
    (393226000, 393226, "what is left of the square ?"),
]
ANSWERS = ["a circle", "yes", "a ring"]
IMAGES = {42: noise(30, 40, 1), 393226: noise(40, 40, 2)}
JSON = "v2_OpenEnded_mscoco_val2014_questions.json"


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    write_vqav2(tmp_path, QUESTIONS, ANSWERS, IMAGES)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_end_to_end(root: Path, name: str) -> None:
    model, processor = model_and_processor(name)
    dexar = LayerDexAR(model)
    dataset = VQAv2(root, processor, model)
    path = root / "val2014" / "COCO_val2014_000000393226.jpg"
    same = ImagePromptInput(path, QUESTIONS[2][2], processor, model)
    expected = compare({"x": dexar}, same, None, processor, SHORT).results["x"]
    inp, target, regions = dataset[2]
    assert target is None and list(regions) == []  # type: ignore[arg-type]
    result = compare({"x": dexar}, inp, target, processor, SHORT).results["x"]
    assert torch.equal(result.token_attr, expected.token_attr)


def test_questions_of_an_image_have_its_id(root: Path) -> None:
    dataset = VQAv2(root, model_and_processor("bundled")[1])
    ids = [dataset.sample_id(i) for i in range(3)]
    assert ids == ["42000", "42001", "393226000"]
    assert [dataset.image_id(i) for i in range(3)] == ["42", "42", "393226"]
    assert [dataset.label(i) for i in range(3)] == ANSWERS
    for (inp, _, _), (_, _, question) in zip(dataset, QUESTIONS):
        assert question in inp.prompt
    with pytest.raises(IndexError, match="3 samples, got 3"):
        dataset[3]
    with pytest.raises(IndexError, match="3 samples, got -1"):
        dataset[-1]


def test_the_official_folders_are_known(root: Path) -> None:
    whole = VQAv2(root, model_and_processor("bundled")[1]).description()
    for name in ("Questions", "Annotations", "Images/mscoco"):
        (root / name).mkdir(parents=True)
    (root / JSON).rename(root / "Questions" / JSON)
    answers = "v2_mscoco_val2014_annotations.json"
    (root / answers).rename(root / "Annotations" / answers)
    (root / "val2014").rename(root / "Images" / "mscoco" / "val2014")
    dataset = VQAv2(root, model_and_processor("bundled")[1])
    assert dataset.description() == whole and dataset.label(0) == ANSWERS[0]
    assert len(list(dataset)) == 3
    (root / "Annotations" / answers).unlink()
    without = VQAv2(root, model_and_processor("bundled")[1])
    assert without.label(0) is None and without.description() == whole


def test_what_is_wrong_is_said(root: Path, tmp_path: Path) -> None:
    processor = model_and_processor("bundled")[1]
    (root / "val2014" / "COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(DamagedSample, match="42001 is skipped: the image is missing"):
        VQAv2(root, processor)[1]
    content = (root / JSON).read_text()
    for wrong, message in {
        content[:-40]: "is damaged: it is not valid JSON",
        "": "is damaged: it is not valid JSON",
        "<html>not found</html>": "is damaged: it is not valid JSON",
        json.dumps([1, 2]): "top level must be an object with a list 'questions'",
        json.dumps({"annotations": [1]}): "an object with a list 'questions'",
        json.dumps({"questions": [3]}): "entry 0 of 'questions', 'question_id' and",
        content.replace('"image_id": 393226', '"image": 3'): "entry 2 .*'image_id'",
        content.replace("42000", '"42000"'): "entry 0 of 'questions', 'question_id'",
        content.replace("42001", "42000"): "'42000' is listed twice",
    }.items():
        assert wrong != content
        (root / JSON).write_text(wrong)
        with pytest.raises(ValueError, match=message):
            VQAv2(root, processor)
    (root / JSON).write_text(content)
    (root / "val2014").rename(root / "train2014")
    with pytest.raises(FileNotFoundError, match="folder of images. Looked for: .*/val"):
        VQAv2(root, processor)
    (root / JSON).unlink()
    with pytest.raises(FileNotFoundError, match=f"questions. Looked for: .*{JSON}"):
        VQAv2(root, processor)


def test_true_is_no_id(tmp_path: Path) -> None:
    write_vqav2(tmp_path, [(True, 42, "what?")], None, {42: noise(20, 20)})
    with pytest.raises(ValueError, match="'question_id' must be there"):
        VQAv2(tmp_path, model_and_processor("bundled")[1])
