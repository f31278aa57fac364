"""Small datasets in the exact layouts in which the large ones are published."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LICENSES = [{"url": "http://example.org", "id": 1, "name": "some licence"}]
INFO = {
    "description": "a small copy",
    "url": "http://example.org",
    "version": "1.0",
    "year": 2014,
    "contributor": "nobody",
    "date_created": "2014/11/14",
}


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_jpeg(path: Path, image: Image.Image, orientation: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, format="JPEG", quality=95, exif=exif)


def voc_palette() -> list[int]:
    """The colour map of PascalVOC's development kit: bits of the class, interleaved."""
    palette = []
    for value in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (value >> (3 * bit + channel) & 1) << (7 - bit)
        palette += colour
    return palette


def write_voc(
    root: Path, samples: Mapping[str, tuple[Image.Image, np.ndarray]], **jpeg: Any
) -> None:
    """``VOC2012`` in ``root``; classes are ``(H, W)``, 0 to 20, and 255 for void."""
    folder = root / "VOC2012"
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{name}\n" for name in samples))
    for kind in ("SegmentationClass", "SegmentationObject"):
        (folder / kind).mkdir()
    for name, (image, classes) in samples.items():
        save_jpeg(folder / "JPEGImages" / f"{name}.jpg", image, **jpeg)
        palette_image = Image.fromarray(classes.astype(np.uint8)).convert("P")
        palette_image.putpalette(voc_palette())
        palette_image.save(folder / "SegmentationClass" / f"{name}.png")
        palette_image.save(folder / "SegmentationObject" / f"{name}.png")


def write_imagenet_folders(
    root: Path, images: Mapping[str, Sequence[Image.Image]]
) -> None:
    """A folder per class; images are numbered through."""
    number = 0
    for label, of_class in images.items():
        for image in of_class:
            number += 1
            save_jpeg(root / label / f"ILSVRC2012_val_{number:08}.JPEG", image)


def write_imagenet_flat(
    root: Path, images: Sequence[Image.Image], classes: Sequence[int] | None = None
) -> None:
    for number, image in enumerate(images, 1):
        save_jpeg(root / f"ILSVRC2012_val_{number:08}.JPEG", image)
    if classes is not None:
        text = "".join(f"{number}\n" for number in classes)
        (root / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def write_vqav2(
    root: Path,
    questions: Sequence[tuple[int, int, str]],
    answers: Sequence[str] | None,
    images: Mapping[int, Image.Image],
) -> None:
    """Questions are ``(question_id, image_id, question)``."""
    shared = {"info": INFO, "license": LICENSES[0], "data_subtype": "val2014"}
    asked = {
        **shared,
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "questions": [
            {"image_id": image, "question": text, "question_id": key}
            for key, image, text in questions
        ],
    }
    root.mkdir(parents=True, exist_ok=True)
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    (root / name).write_text(json.dumps(asked))
    if answers is not None:
        people = range(1, 11)
        answered = {
            **shared,
            "data_type": "mscoco",
            "annotations": [
                {
                    "question_type": "what is",
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": i}
                        for i in people
                    ],
                    "image_id": image,
                    "answer_type": "other",
                    "question_id": key,
                }
                for (key, image, _), answer in zip(questions, answers)
            ],
        }
        (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps(answered))
    for image, picture in images.items():
        save_jpeg(root / "val2014" / f"COCO_val2014_{image:012}.jpg", picture)


def write_coco(
    root: Path,
    images: Mapping[int, Image.Image],
    captions: Sequence[tuple[int, str]],
    instances: Sequence[tuple[int, int, Any, bool]],
    categories: Mapping[int, str],
    split: str = "val2017",
    **jpeg: Any,
) -> None:
    """Captions are ``(image, text)``, instances ``(image, category, segmentation,
    iscrowd)``."""
    stem = "COCO_val2014_" if split == "val2014" else ""
    files = {key: f"{stem}{key:012}.jpg" for key in images}
    listed = [
        {
            "license": 1,
            "file_name": files[key],
            "coco_url": f"http://example.org/{split}/{files[key]}",
            "height": picture.height,
            "width": picture.width,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": f"http://example.org/{key}.jpg",
            "id": key,
        }
        for key, picture in images.items()
    ]
    shared = {"info": INFO, "licenses": LICENSES, "images": listed}
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    captioned = [
        {"image_id": image, "id": key, "caption": text}
        for key, (image, text) in enumerate(captions, 1)
    ]
    (folder / f"captions_{split}.json").write_text(
        json.dumps({**shared, "annotations": captioned})
    )
    annotated = [
        {
            "segmentation": segmentation,
            "area": 1.5,
            "iscrowd": int(is_crowd),
            "image_id": image,
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "category_id": category,
            "id": key,
        }
        for key, (image, category, segmentation, is_crowd) in enumerate(instances, 1)
    ]
    named = [
        {"supercategory": "things", "id": key, "name": name}
        for key, name in categories.items()
    ]
    (folder / f"instances_{split}.json").write_text(
        json.dumps({**shared, "annotations": annotated, "categories": named})
    )
    for key, picture in images.items():
        save_jpeg(root / split / files[key], picture, **jpeg)
