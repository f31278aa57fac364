"""Datasets with a published layout on disk, and the bundled scenes."""

from captum_dexar.evaluation.datasets.shapes import ShapesDataset

__all__ = ["ShapesDataset"]
