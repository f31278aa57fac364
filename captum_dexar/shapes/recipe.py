"""The training recipe: stages, schedules and batches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from captum_dexar.shapes.language import CAPTION_PROMPT, Question
from captum_dexar.shapes.packing import pack, PackedBatch, Turn
from captum_dexar.shapes.processing import PIXEL_MEAN, PIXEL_STD
from captum_dexar.shapes.scene import FIRST_TRAINING_SEED, make_scene, Scene
from captum_dexar.shapes.supervision import patch_labels
from torch import Tensor
from torch.utils.data import Dataset

# Scenes per training run, so that runs with different seeds share none.
SEEDS_PER_RUN = 1_000_000_000


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Args:
        name (str): shown while it runs
        steps (int): number of optimiser steps
        batch_size (int): scenes per step
        learning_rates (tuple of float): at the peak and at the end; cosine in between
        warm_up (int): steps of linear warm-up
        patch_weights (tuple of float): weight of the patch loss at the start and at the
            end
        question_weights (Mapping): relative frequency of each kind of question; empty
            for a stage that trains only the vision tower and the projector
        object_weights (tuple of float): relative frequency of scenes of 1, 2 and 3
            objects
        questions (tuple of int): fewest and most questions per scene. Default: (5, 7)
        restarts (bool): whether the stage begins with a new optimiser and new patch
            heads. Default: False
    """

    name: str
    steps: int
    batch_size: int
    learning_rates: tuple[float, float]
    warm_up: int
    patch_weights: tuple[float, float]
    question_weights: Mapping[str, float]
    object_weights: tuple[float, float, float]
    questions: tuple[int, int] = (5, 7)
    restarts: bool = False

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step of this stage, counted from 0."""
        if step < self.warm_up:
            return self.learning_rates[0] * (step + 1) / self.warm_up
        part = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        peak, end = self.learning_rates
        return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * part))

    def patch_weight(self, step: int) -> float:
        """The weight of the patch loss at a step of this stage."""
        start, end = self.patch_weights
        return start + (end - start) * step / max(1, self.steps - 1)


EVEN = {
    "shape": 1.0,
    "colour exists": 1.0,
    "shape exists": 1.0,
    "exists": 1.5,
    "count": 1.0,
    "left": 1.5,
}
HARDER = EVEN | {"shape exists": 1.5, "exists": 4.0, "left": 3.0}

STAGES = (
    Stage("vision", 2400, 32, (2e-3, 4e-4), 100, (1.0, 1.0), {}, (1, 1, 1)),
    Stage("language", 2400, 24, (1.5e-3, 8e-4), 150, (0.7, 0.07), EVEN, (1, 1, 1)),
    Stage("hard cases", 1400, 24, (8e-4, 1e-5), 0, (0.07, 0.07), HARDER, (1, 1.5, 3)),
    Stage(
        "finishing",
        steps=1500,
        batch_size=24,
        learning_rates=(4e-4, 1e-6),
        warm_up=200,
        patch_weights=(0.3, 0.3),
        question_weights=EVEN,
        object_weights=(1, 3, 2.5),
        questions=(3, 5),
        restarts=True,
    ),
)


def recipe(patch_supervision: bool = True, steps_scale: float = 1.0) -> list[Stage]:
    """The stages of a run; for the arguments see ``train``."""
    stages = []
    for stage in STAGES:
        if not patch_supervision:
            if not stage.question_weights:
                continue
            stage = replace(stage, patch_weights=(0.0, 0.0))
        steps = max(1, round(stage.steps * steps_scale))
        warm_up = min(stage.warm_up, steps // 2)
        stages.append(replace(stage, steps=steps, warm_up=warm_up))
    return stages


@dataclass(frozen=True)
class Batch:
    """The data of one training step.

    Args:
        pixel_values (Tensor): ``(batch, 3, 96, 96)``
        labels (Tensor): patch labels, ``(3, batch, 144)``
        packed (PackedBatch or None): the turns; None in the vision stage
    """

    pixel_values: Tensor
    labels: Tensor
    packed: PackedBatch | None


def pixel_values(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' images, preprocessed as by the processor, ``(batch, 3, 96, 96)``."""
    images = np.stack([np.asarray(scene.image) for scene in scenes])
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return ((values - PIXEL_MEAN) / PIXEL_STD).contiguous()


def draw_turns(stage: Stage, scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """The caption and a few questions of one scene."""
    weights = [stage.question_weights[question.kind] for question in scene.questions]
    chances = np.array(weights) / sum(weights)
    count = int(rng.integers(stage.questions[0], stage.questions[1] + 1))
    drawn = rng.choice(len(chances), size=count, replace=False, p=chances)
    chosen: list[Question] = [scene.questions[i] for i in drawn]
    caption = Turn(CAPTION_PROMPT, scene.caption)
    return [caption, *(Turn(question.text, question.answer) for question in chosen)]


class TrainingSteps(Dataset[Batch]):
    """The batch of every step of a run; it depends only on the seed and the step.

    Args:
        seed (int): seed of the run
        stages (sequence of Stage): the stages of the run
    """

    def __init__(self, seed: int, stages: Sequence[Stage]) -> None:
        self.seed = seed
        self.stages = list(stages)

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def locate(self, index: int) -> tuple[Stage, int, int]:
        """The stage of a step, its number there, and how many scenes come before it."""
        scenes = 0
        for stage in self.stages:
            if index < stage.steps:
                return stage, index, scenes + index * stage.batch_size
            index -= stage.steps
            scenes += stage.steps * stage.batch_size
        raise IndexError("There is no such training step.")

    def __getitem__(self, index: int) -> Batch:
        stage, _, first = self.locate(index)
        offset = FIRST_TRAINING_SEED + self.seed * SEEDS_PER_RUN + first
        rng = np.random.default_rng([self.seed, index])
        chances = np.array(stage.object_weights) / sum(stage.object_weights)
        counts = rng.choice(3, size=stage.batch_size, p=chances) + 1
        scenes = [
            make_scene(offset + i, num_objects=int(count))
            for i, count in enumerate(counts)
        ]
        packed = None
        if stage.question_weights:
            packed = pack([draw_turns(stage, scene, rng) for scene in scenes])
        return Batch(pixel_values(scenes), patch_labels(scenes), packed)
