"""The data of every training step, from its number alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from captum_dexar.training.packing import pack, PackedBatch, Turn
from captum_dexar.training.patches import patch_labels
from captum_dexar.training.stages import Recipe, Stage
from captum_dexar.training.words import word_labels
from captum_dexar.worlds.accuracy import caption_kind
from captum_dexar.worlds.processing import PATCH_SIZE, PIXEL_MEAN, PIXEL_STD
from captum_dexar.worlds.scene import Scene
from captum_dexar.worlds.world import World
from torch import Tensor
from torch.utils.data import Dataset

# Scenes per training run, so that runs with different seeds share none.
SEEDS_PER_RUN = 1_000_000_000

LABELS: dict[str, Callable[[World, Sequence[Scene]], Tensor]] = {
    "patches": patch_labels,
    "words": word_labels,
}


@dataclass(frozen=True)
class Batch:
    """The data of one training step.

    Args:
        pixel_values (Tensor): ``(batch, 3, height, width)``
        labels (Tensor): what the image tokens learn, by the recipe's supervision
        packed (PackedBatch or None): the turns; None in a stage without any
    """

    pixel_values: Tensor
    labels: Tensor
    packed: PackedBatch | None


def pixel_values(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' images, preprocessed as by the processor."""
    images = np.stack([np.asarray(scene.image) for scene in scenes])
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return ((values - PIXEL_MEAN) / PIXEL_STD).contiguous()


def draw_turns(
    world: World, stage: Stage, scene: Scene, rng: np.random.Generator
) -> list[Turn]:
    """The caption and a few questions of one scene."""
    weights = [stage.question_weights[question.kind] for question in scene.questions]
    chances = np.array(weights) / sum(weights)
    count = int(rng.integers(stage.questions[0], stage.questions[1] + 1))
    drawn = rng.choice(len(chances), size=count, replace=False, p=chances)
    chosen = [scene.questions[i] for i in drawn]
    caption = Turn(world.caption_prompt, scene.caption, caption_kind(scene))
    return [caption, *(Turn(item.text, item.answer, item.kind) for item in chosen)]


class TrainingSteps(Dataset[Batch]):
    """The batch of every step of a run; it depends only on the seed and the step.

    Args:
        world (World): draws the scenes
        recipe (Recipe): the stages of the run
        seed (int): seed of the run
    """

    def __init__(self, world: World, recipe: Recipe, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.recipe = recipe

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.recipe.stages)

    def locate(self, index: int) -> tuple[Stage, int, int]:
        """The stage of a step, its number there, and how many scenes come before it."""
        scenes = 0
        for stage in self.recipe.stages:
            if index < stage.steps:
                return stage, index, scenes + index * stage.batch_size
            index -= stage.steps
            scenes += stage.steps * stage.batch_size
        raise IndexError("There is no such training step.")

    def __getitem__(self, index: int) -> Batch:
        world = self.world
        stage, _, first = self.locate(index)
        offset = world.first_training_seed + self.seed * SEEDS_PER_RUN + first
        rng = np.random.default_rng([self.seed, index])
        chances = np.array(stage.object_weights) / sum(stage.object_weights)
        counts = rng.choice(len(chances), size=stage.batch_size, p=chances) + 1
        scenes = [
            world.make_scene(offset + i, num_objects=int(count))
            for i, count in enumerate(counts)
        ]
        packed = None
        if stage.question_weights:
            turns = [draw_turns(world, stage, scene, rng) for scene in scenes]
            image_tokens = (world.image_size // PATCH_SIZE) ** 2
            packed = pack(turns, world.vocabulary, image_tokens)
        labels = LABELS[self.recipe.supervision](world, scenes)
        return Batch(pixel_values(scenes), labels, packed)
