"""The result type of all methods, with its words, plots and files.

Nothing here imports transformers, so that a saved result is soon shown; ``factory.py``,
which makes results, is imported by itself.
"""

from captum_dexar.result.regions import Region
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.result.words import Word

__all__ = ["Region", "VLMAttributionResult", "Word"]
