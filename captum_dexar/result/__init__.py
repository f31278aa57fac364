"""The result type of all methods, with its words, plots and files."""

from captum_dexar.result.factory import answer_result
from captum_dexar.result.regions import Region
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.words import Word

__all__ = ["Region", "VLMAttributionResult", "Word", "answer_result"]
