"""Measures the quality of maps on data with known ground truth."""

from captum_dexar.evaluation.dataset import (
    DamagedSample,
    EvaluationDataset,
    RedrawnScenes,
)
from captum_dexar.evaluation.datasets import (
    COCOCaptions,
    ImageNetValidation,
    LettersDataset,
    PascalVOC,
    ShapesDataset,
    VQAv2,
)
from captum_dexar.evaluation.evaluation import evaluate, Evaluation, LOCALIZATION
from captum_dexar.evaluation.randomization import (
    cascading_randomization,
    decoder_parts,
    independent_randomization,
    map_similarity,
    MapSimilarity,
    ModelPart,
    randomized,
    swap_similarity,
    vision_part,
)

__all__ = [
    "COCOCaptions",
    "DamagedSample",
    "Evaluation",
    "EvaluationDataset",
    "ImageNetValidation",
    "LOCALIZATION",
    "LettersDataset",
    "MapSimilarity",
    "ModelPart",
    "PascalVOC",
    "RedrawnScenes",
    "ShapesDataset",
    "VQAv2",
    "cascading_randomization",
    "decoder_parts",
    "evaluate",
    "independent_randomization",
    "map_similarity",
    "randomized",
    "swap_similarity",
    "vision_part",
]
