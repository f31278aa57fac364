"""The very recipes in a few steps of small batches."""

from dataclasses import replace

import torch
from captum_dexar.shapes.world import WORLD
from captum_dexar.training.recipes import RECIPES
from captum_dexar.training.stages import Recipe
from captum_dexar.training.trainer import Trainer


def short_recipe(name: str, steps: int = 2) -> Recipe:
    """A recipe for the shapes with this many steps a stage, of two scenes each."""
    recipe = RECIPES[name](WORLD)
    stages = [
        replace(stage, steps=steps, batch_size=2, warm_up=min(stage.warm_up, 1))
        for stage in recipe.stages
    ]
    return replace(recipe, stages=tuple(stages))


def weights(trainer: Trainer) -> torch.Tensor:
    """All trained parameters in one vector."""
    with torch.no_grad():
        return torch.cat([p.flatten() for p in trainer.parameters])
