"""What is measured on a sample: localisation, perturbation, sanity."""

from captum_dexar.evaluation.protocols.base import EvaluationProtocol, Line
from captum_dexar.evaluation.protocols.localization import (
    LOCALIZATION,
    LocalizationProtocol,
)

__all__ = ["EvaluationProtocol", "Line", "LOCALIZATION", "LocalizationProtocol"]
