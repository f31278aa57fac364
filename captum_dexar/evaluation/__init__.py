"""Measures the quality of maps on data with known ground truth."""

from captum_dexar.evaluation.dataset import DamagedSample, EvaluationDataset
from captum_dexar.evaluation.datasets import ShapesDataset
from captum_dexar.evaluation.evaluation import evaluate, Evaluation, LOCALIZATION

__all__ = [
    "DamagedSample",
    "Evaluation",
    "EvaluationDataset",
    "LOCALIZATION",
    "ShapesDataset",
    "evaluate",
]
