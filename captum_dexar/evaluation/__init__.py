"""Measures the quality of maps on data with known ground truth."""

from captum_dexar.evaluation.evaluation import evaluate, Evaluation, LOCALIZATION
from captum_dexar.evaluation.shapes_dataset import ShapesDataset

__all__ = ["Evaluation", "LOCALIZATION", "ShapesDataset", "evaluate"]
