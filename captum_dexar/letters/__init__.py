"""Scenes of letters and digits over photographs, with exact ground truth."""

from captum_dexar.letters.processing import build_processor
from captum_dexar.letters.scene import Character, make_scene, Scene

__all__ = ["Character", "Scene", "build_processor", "make_scene"]
