"""VQAv2, the questions of its validation set."""

from functools import partial
from pathlib import Path
from typing import Any

from captum_dexar.evaluation.dataset import Example
from captum_dexar.evaluation.datasets.annotation_index import (
    Fill,
    IndexWriter,
    json_entries,
)
from captum_dexar.evaluation.datasets.folder_dataset import FolderDataset, found, loaded

_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
_FOLDERS = ("", "annotations/", "questions/", "Questions/", "Annotations/")
_IMAGES = ("val2014", "images/val2014", "Images/mscoco/val2014")


class VQAv2(FolderDataset):
    """VQAv2, the 214,354 questions of its validation set on 40,504 images of COCO.

    The prompt is the question, the answer the model's own. There are no regions: the
    dataset is for perturbation. Questions about one image have its ``image_id``.

    Read are ``v2_OpenEnded_mscoco_val2014_questions.json``, the images
    ``val2014/COCO_val2014_000000000042.jpg`` and, if it is there,
    ``v2_mscoco_val2014_annotations.json``.

    Args:
        root (str or os.PathLike): the folder of these; the JSON files may lie in
            ``questions`` and ``annotations``, the images in ``images/val2014`` or
            ``Images/mscoco/val2014``
        processor, model, limit, seed: as in :class:`FolderDataset`

    Raises:
        FileNotFoundError, ValueError, TypeError: as :class:`FolderDataset`.
        ImportError: ijson is not installed.
    """

    name = "vqav2"

    def label(self, index: int) -> str | None:
        """The most frequent answer of people; None if it is not known."""
        answers = self._index.details("answer", int(self.sample_id(index)))
        return answers[0] if answers else None

    def _fill(self) -> Fill:
        questions = found(
            "VQAv2's questions", self.root, [f"{one}{_QUESTIONS}" for one in _FOLDERS]
        )
        self._folder = found(
            "VQAv2's folder of images", self.root, _IMAGES, is_folder=True
        )
        places = [self.root / f"{one}{_ANNOTATIONS}" for one in _FOLDERS]
        answers = next((path for path in places if path.is_file()), None)
        return partial(_fill_index, questions, answers)

    def _example(self, sample_id: str, image_id: str, data: Any) -> Example:
        path = self._folder / f"COCO_val2014_{int(image_id):012}.jpg"
        image = loaded(sample_id, path)
        return self._input(sample_id, path, image, data), None, ()


def _fill_index(questions: Path, answers: Path | None, writer: IndexWriter) -> None:
    keys = {"question_id": int, "image_id": int, "question": str}
    for asked in json_entries(questions, "questions", keys, writer):
        sample, image, prompt = (asked[key] for key in keys)
        writer.add_sample(str(sample), str(image), prompt, questions)
    if answers is not None:
        keys = {"question_id": int, "multiple_choice_answer": str}
        for answered in json_entries(answers, "annotations", keys):
            question, answer = (answered[key] for key in keys)
            writer.add_detail("answer", question, answer)
