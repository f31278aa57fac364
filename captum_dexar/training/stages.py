"""Stages of a training, with their schedules."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Supervision = Literal["patches", "words"]


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Args:
        name (str): shown while it runs
        steps (int): number of optimiser steps
        batch_size (int): scenes per step
        learning_rates (tuple of float): at the peak and at the end; cosine in between
        warm_up (int): steps of linear warm-up
        supervision_weights (tuple of float): weight of the loss on the image tokens at
            the start and at the end
        question_weights (Mapping): relative frequency of each kind of question; empty
            for a stage that trains only the vision tower and the projector
        object_weights (tuple of float): relative frequency of scenes of 1, 2 and 3
            objects
        questions (tuple of int): fewest and most questions per scene. Default: (5, 7)
        vision_rate (float): factor on the learning rate of the vision tower and the
            projector. Default: 1.0
        restarts (bool): whether the stage begins with a new optimiser and new heads on
            the image tokens. Default: False
    """

    name: str
    steps: int
    batch_size: int
    learning_rates: tuple[float, float]
    warm_up: int
    supervision_weights: tuple[float, float]
    question_weights: Mapping[str, float]
    object_weights: tuple[float, ...]
    questions: tuple[int, int] = (5, 7)
    vision_rate: float = 1.0
    restarts: bool = False

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step of this stage, counted from 0."""
        if step < self.warm_up:
            return self.learning_rates[0] * (step + 1) / self.warm_up
        part = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        peak, end = self.learning_rates
        return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * part))

    def supervision_weight(self, step: int) -> float:
        """The weight of the loss on the image tokens at a step of this stage."""
        start, end = self.supervision_weights
        return start + (end - start) * step / max(1, self.steps - 1)

    def scaled(self, scale: float) -> "Stage":
        """The same stage with another number of steps."""
        steps = max(1, round(self.steps * scale))
        return replace(self, steps=steps, warm_up=min(self.warm_up, steps // 2))


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Args:
        name (str): its name
        supervision (str): what the image tokens learn before and beside the answers:
            ``"patches"``, which object covers each patch, by its mask; or ``"words"``,
            which words are true of the image, wherever that may be
        stages (tuple of Stage): the stages, in their order
        bfloat16 (bool, optional): multiplies matrices in bfloat16. Default: False
        sinusoidal_positions (bool, optional): see
            :func:`captum_dexar.worlds.model.build_model`. Default: False
        muon (bool, optional): the layers' matrices are trained by
            :class:`captum_dexar.training.muon.Muon`, not by AdamW. Default: False
    """

    name: str
    supervision: Supervision
    stages: tuple[Stage, ...]
    bfloat16: bool = False
    sinusoidal_positions: bool = False
    muon: bool = False

    def scaled(self, scale: float) -> "Recipe":
        """The same recipe with other numbers of steps."""
        return replace(self, stages=tuple(s.scaled(scale) for s in self.stages))
