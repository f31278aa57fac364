"""Measuring methods on data whose truth is known."""

from captum_dexar.evaluation.shapes_benchmark import (
    evaluate_on_shapes,
    localization_table,
    MethodScores,
)

__all__ = ["MethodScores", "evaluate_on_shapes", "localization_table"]
