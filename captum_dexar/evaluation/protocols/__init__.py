"""What is measured on a sample: localisation, perturbation, effects, sanity."""

from captum_dexar.evaluation.protocols.base import EvaluationProtocol, Line
from captum_dexar.evaluation.protocols.effects import EffectsProtocol
from captum_dexar.evaluation.protocols.localization import (
    LOCALIZATION,
    LocalizationProtocol,
)
from captum_dexar.evaluation.protocols.perturbation import PerturbationProtocol
from captum_dexar.evaluation.protocols.sanity import SanityProtocol

__all__ = [
    "EffectsProtocol",
    "EvaluationProtocol",
    "LOCALIZATION",
    "Line",
    "LocalizationProtocol",
    "PerturbationProtocol",
    "SanityProtocol",
]
