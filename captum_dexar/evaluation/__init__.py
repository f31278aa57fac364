"""How good the maps of methods are, measured on data whose truth is known."""

from captum_dexar.evaluation.evaluation import evaluate, Evaluation, LOCALIZATION
from captum_dexar.evaluation.shapes_dataset import ShapesDataset

__all__ = ["Evaluation", "LOCALIZATION", "ShapesDataset", "evaluate"]
