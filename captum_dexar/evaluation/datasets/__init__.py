"""Datasets with a published layout on disk, and the bundled scenes."""

from captum_dexar.evaluation.datasets.coco import COCOCaptions
from captum_dexar.evaluation.datasets.imagenet import ImageNetValidation
from captum_dexar.evaluation.datasets.letters import LettersDataset
from captum_dexar.evaluation.datasets.shapes import ShapesDataset
from captum_dexar.evaluation.datasets.voc import PascalVOC
from captum_dexar.evaluation.datasets.vqav2 import VQAv2

__all__ = [
    "COCOCaptions",
    "ImageNetValidation",
    "LettersDataset",
    "PascalVOC",
    "ShapesDataset",
    "VQAv2",
]
