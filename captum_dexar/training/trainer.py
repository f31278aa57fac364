"""The state of a training run, and its steps."""

from typing import Any

import torch
from captum_dexar.training.batches import Batch, TrainingSteps
from captum_dexar.training.half_precision import bfloat16_products
from captum_dexar.training.measures import Measures
from captum_dexar.training.muon import Muon
from captum_dexar.training.packing import (
    answer_logits,
    answer_loss,
    exact_answers,
    image_features,
    PackedBatch,
)
from captum_dexar.training.patches import PatchHeads
from captum_dexar.training.stages import Recipe
from captum_dexar.training.words import WordHeads
from captum_dexar.worlds.model import build_model
from captum_dexar.worlds.world import World
from torch import nn, Tensor
from transformers import LlavaForConditionalGeneration

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
# Muon's learning rate is this many times that of AdamW.
MUON_FACTOR = 10.0

HEADS = {"patches": PatchHeads, "words": WordHeads}


class Trainer:
    """The state of a training run.

    Args:
        world (World): the world that the model learns
        recipe (Recipe): how it is trained
        seed (int, optional): seed of the weights and of the scenes. Default: 0
    """

    def __init__(self, world: World, recipe: Recipe, seed: int = 0) -> None:
        self.world = world
        self.recipe = recipe
        self.seed = seed
        self.data = TrainingSteps(world, recipe, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: LlavaForConditionalGeneration = build_model(
                world, recipe.sinusoidal_positions
            )
            self._new_heads()
        self._new_optimizers()
        self.model.train()
        self.step = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def _new_heads(self) -> None:
        channels = self.model.config.text_config.hidden_size
        self.heads = HEADS[self.recipe.supervision](self.world, channels)

    def _new_optimizers(self) -> None:
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        sees = {id(p) for p in _seeing(self.model)}
        layers = _layer_matrices(self.model) if self.recipe.muon else []
        of_layers = {id(p) for p in layers}
        others = [p for p in self.parameters if id(p) not in of_layers]

        def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
            return [
                {"params": chosen, "weight_decay": decay, "sees": seeing}
                for decay, dimensions in ((WEIGHT_DECAY, (2, 3, 4)), (0.0, (0, 1)))
                for seeing in (True, False)
                if (
                    chosen := [
                        p
                        for p in parameters
                        if p.ndim in dimensions and (id(p) in sees) == seeing
                    ]
                )
            ]

        adam = torch.optim.AdamW(groups(others), betas=BETAS, fused=True)
        # Each with the factor on its learning rate.
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adam, 1.0)]
        if layers:
            self.optimizers.append((Muon(groups(layers), lr=0.0), MUON_FACTOR))

    def _restart(self) -> None:
        """New heads on the image tokens and a new optimisers; the model is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            self._new_heads()
        self._new_optimizers()

    def train_step(self, batch: Batch) -> Measures:
        """One optimiser step; returns losses and accuracies on this batch."""
        stage, number, _ = self.data.locate(self.step)
        if stage.restarts and number == 0:
            self._restart()
        for optimizer, factor in self.optimizers:
            for group in optimizer.param_groups:
                rate = factor * stage.learning_rate(number)
                group["lr"] = rate * (stage.vision_rate if group["sees"] else 1.0)
        measures = Measures()
        with bfloat16_products(self.model, self.recipe.bfloat16):
            loss = self._loss(batch, stage.supervision_weight(number), measures)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        for optimizer, _ in self.optimizers:
            optimizer.step()
        self.step += 1
        return measures

    def _loss(self, batch: Batch, weight: float, measures: Measures) -> Tensor:
        loss = torch.zeros(())
        if batch.packed is None:
            features = image_features(self.model, batch.pixel_values)
        else:
            logits, features = answer_logits(
                self.model, batch.pixel_values, batch.packed
            )
            loss = answer_loss(logits, batch.packed)
            measures.add("answers", loss)
            _measure_answers(logits, batch.packed, measures)
        if weight:
            head_loss, measured = self.heads(features, batch.labels)
            loss = loss + weight * head_loss
            measures.add(self.recipe.supervision, head_loss)
            measures.update(measured)
        return loss

    def state(self) -> dict[str, Any]:
        """Everything needed to resume the run exactly."""
        return {
            "run": self._run(),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [one.state_dict() for one, _ in self.optimizers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resumes from a :meth:`state` of the same run.

        Raises:
            ValueError: it is of another world, recipe or seed.
        """
        if state.get("run") != self._run():
            raise ValueError(
                f"The checkpoint is of another run than this one, which is "
                f"{self.recipe.name} of {self.world.name}, seed {self.seed}: it has "
                "another world, recipe or seed, or other stages. Choose another folder."
            )
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.cpu_seconds = state["cpu_seconds"]

    def _run(self) -> dict[str, str]:
        """What has to be the same for a run to be resumed."""
        return {
            "world": self.world.name,
            "recipe": repr(self.recipe),
            "seed": str(self.seed),
        }


def _seeing(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the vision tower and the projector."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if "vision_tower" in name or "projector" in name
    ]


def _layer_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers between the embeddings and the classifiers."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and (".layers." in name or "projector" in name)
    ]


def _measure_answers(logits: Tensor, packed: PackedBatch, measures: Measures) -> None:
    exact = exact_answers(logits, packed)
    for kind in sorted(set(packed.kinds)):
        of_kind = torch.tensor([other == kind for other in packed.kinds])
        measures.add(kind, exact[of_kind])
