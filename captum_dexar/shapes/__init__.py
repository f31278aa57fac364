"""Synthetic scenes with exact ground truth, and a small model trained on them."""

from captum_dexar.shapes.accuracy import measure_accuracy
from captum_dexar.shapes.bundled import load_vlm
from captum_dexar.shapes.scene import make_scene, Scene, SceneObject
from captum_dexar.worlds.accuracy import Accuracy
from captum_dexar.worlds.words import CaptionWord, Question

__all__ = [
    "Accuracy",
    "CaptionWord",
    "Question",
    "Scene",
    "SceneObject",
    "load_vlm",
    "make_scene",
    "measure_accuracy",
]
