"""Measures the quality of maps on data with known ground truth."""

from captum_dexar.evaluation.dataset import DamagedSample, EvaluationDataset
from captum_dexar.evaluation.datasets import (
    COCOCaptions,
    ImageNetValidation,
    PascalVOC,
    ShapesDataset,
    VQAv2,
)
from captum_dexar.evaluation.evaluation import evaluate, Evaluation, LOCALIZATION

__all__ = [
    "COCOCaptions",
    "DamagedSample",
    "Evaluation",
    "EvaluationDataset",
    "ImageNetValidation",
    "LOCALIZATION",
    "PascalVOC",
    "ShapesDataset",
    "VQAv2",
    "evaluate",
]
