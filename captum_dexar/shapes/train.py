"""Trains the bundled model from scratch: ``python -m captum_dexar.shapes.train``.

After an interruption, the same command resumes the run.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from captum_dexar.shapes.model import build_model
from captum_dexar.shapes.packing import answer_loss, image_features
from captum_dexar.shapes.processing import build_processor
from captum_dexar.shapes.recipe import Batch, recipe, Stage, TrainingSteps
from captum_dexar.shapes.supervision import PatchHeads
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
CHECKPOINT_EVERY = 200
LOG_EVERY = 25
CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"


class Trainer:
    """The state of a training run.

    Args:
        seed (int): seed of the weights and of the scenes
        stages (sequence of Stage): the stages of the run, see
            :func:`captum_dexar.shapes.recipe.recipe`
    """

    def __init__(self, seed: int, stages: Sequence[Stage]) -> None:
        self.seed = seed
        self.data = TrainingSteps(seed, stages)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: LlavaForConditionalGeneration = build_model()
            self.heads = PatchHeads(self.model.config.text_config.hidden_size)
        self._new_optimizer()
        self.step = 0
        self.seconds = 0.0

    def _new_optimizer(self) -> None:
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": WEIGHT_DECAY},
                {"params": vectors, "weight_decay": 0.0},
            ],
            betas=BETAS,
            fused=True,
        )

    def _restart(self) -> None:
        """New patch heads and a new optimiser; the model is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            self.heads = PatchHeads(self.model.config.text_config.hidden_size)
        self._new_optimizer()

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns losses and accuracies."""
        stage, number, _ = self.data.locate(self.step)
        if stage.restarts and number == 0:
            self._restart()
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate(number)
        patch_weight = stage.patch_weight(number)
        measured: dict[str, float] = {}
        loss = torch.zeros(())
        if batch.packed is None:
            features = image_features(self.model, batch.pixel_values)
        else:
            loss, features = answer_loss(self.model, batch.pixel_values, batch.packed)
            measured["answers"] = loss.item()
        if patch_weight:
            patch_loss, accuracies = self.heads(features, batch.labels)
            loss = loss + patch_weight * patch_loss
            measured["patches"] = patch_loss.item()
            for name, value in zip(("shape", "colour", "size"), accuracies.tolist()):
                measured[f"patch_{name}"] = value
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1
        return measured

    def state(self) -> dict[str, Any]:
        """Everything needed to resume the run exactly."""
        return {
            "seed": self.seed,
            "stages": [repr(stage) for stage in self.data.stages],
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resumes from a :meth:`state` of the same seed and stages."""
        same = state["stages"] == [repr(stage) for stage in self.data.stages]
        if state["seed"] != self.seed or not same:
            raise ValueError(
                f"The checkpoint is of a run with seed {state['seed']} or with other "
                f"stages than this one (seed {self.seed}); choose another folder."
            )
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.seconds = state["seconds"]


def save_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Replaces the checkpoint atomically."""
    temporary = folder / f"{CHECKPOINT_NAME}.new"
    torch.save(trainer.state(), temporary)
    temporary.replace(folder / CHECKPOINT_NAME)


def save_model(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes the model and its processor in Hugging Face's layout."""
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)


def train(
    folder: Path,
    seed: int = 0,
    patch_supervision: bool = True,
    steps_scale: float = 1.0,
    max_steps: int | None = None,
    workers: int = 1,
) -> Trainer:
    """Trains the model, resuming an interrupted run from ``folder``.

    Args:
        folder (pathlib.Path): where checkpoints, the log and finally the model are
            written
        seed (int, optional): seed of the weights and of the scenes. Default: 0
        patch_supervision (bool, optional): False trains without any patch loss.
            Default: True
        steps_scale (float, optional): factor on the number of steps of every stage.
            Default: 1.0
        max_steps (int, optional): stops after this step. Default: None
        workers (int, optional): number of processes that draw scenes. Default: 1

    Returns:
        Trainer, at its last step

    Raises:
        ValueError: ``folder`` holds the checkpoint of another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(seed, recipe(patch_supervision, steps_scale))
    checkpoint = folder / CHECKPOINT_NAME
    if checkpoint.exists():
        trainer.load_state(torch.load(checkpoint, weights_only=True))
    total = len(trainer.data)
    last = total if max_steps is None else min(total, max_steps)
    loader = DataLoader(
        trainer.data,
        batch_size=None,
        sampler=range(trainer.step, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    trainer.model.train()
    started = time.monotonic() - trainer.seconds
    progress = tqdm(loader, initial=trainer.step, total=total, unit="step")
    with (folder / LOG_NAME).open("a") as log:
        for batch in progress:
            stage = trainer.data.locate(trainer.step)[0]
            measured = trainer.train_step(batch)
            trainer.seconds = time.monotonic() - started
            if trainer.step % LOG_EVERY == 0:
                shown = {name: round(value, 4) for name, value in measured.items()}
                progress.set_description(stage.name)
                progress.set_postfix(shown)
                line = {"step": trainer.step, "seconds": round(trainer.seconds, 1)}
                log.write(json.dumps(line | {"stage": stage.name} | shown) + "\n")
                log.flush()
            if trainer.step % CHECKPOINT_EVERY == 0:
                save_checkpoint(trainer, folder)
    save_checkpoint(trainer, folder)
    if trainer.step == total:
        trainer.model.eval()
        save_model(trainer.model, folder)
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m captum_dexar.shapes.train", description=__doc__
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--no-patch-supervision",
        action="store_true",
        help="leave out the vision stage and every patch loss",
    )
    parser.add_argument(
        "--steps-scale",
        type=float,
        default=1.0,
        help="factor on the number of steps of every stage",
    )
    options = parser.parse_args(arguments)
    trainer = train(
        options.out,
        seed=options.seed,
        patch_supervision=not options.no_patch_supervision,
        steps_scale=options.steps_scale,
    )
    print(f"{trainer.step} steps in {trainer.seconds / 60:.1f} minutes: {options.out}")


if __name__ == "__main__":
    main()
