"""Runs a training in a folder, and goes on after an interruption."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from captum_dexar.training.measures import Measures
from captum_dexar.training.recipes import RECIPES
from captum_dexar.training.stages import Recipe
from captum_dexar.training.trainer import Trainer
from captum_dexar.worlds.processing import build_processor
from captum_dexar.worlds.world import World
from torch.utils.data import DataLoader
from tqdm import tqdm

# A line of the log is about this many steps, on scenes that were not seen before.
LOG_EVERY = 25
# A multiple of it, so that no line is about steps from before an interruption.
CHECKPOINT_EVERY = 100
CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"


def save_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Replaces the checkpoint atomically: killed meanwhile, the old one is left."""
    temporary = folder / f"{CHECKPOINT_NAME}.new"
    torch.save(trainer.state(), temporary)
    temporary.replace(folder / CHECKPOINT_NAME)


def save_model(trainer: Trainer, folder: Path) -> None:
    """Writes the model and its processor in Hugging Face's layout."""
    world = trainer.world
    trainer.model.save_pretrained(folder)
    build_processor(world.vocabulary, world.image_size).save_pretrained(folder)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cut_log(log: Path, step: int) -> None:
    """Drops the lines about steps that will be done again."""
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        # A line that was being written may end anywhere.
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        log.write_text("".join(kept))


def train(
    world: World,
    recipe: Recipe,
    folder: Path,
    seed: int = 0,
    max_steps: int | None = None,
    workers: int = 1,
    threads: int = 1,
) -> Trainer:
    """Trains a model, resuming an interrupted run from ``folder``.

    A resumed run ends with the same weights, bit for bit, as one that was not
    interrupted, on the same machine and with the same number of threads.

    Args:
        world (World): the world that the model learns
        recipe (Recipe): how it is trained
        folder (pathlib.Path): where checkpoints, the log and finally the model are
            written
        seed (int, optional): seed of the weights and of the scenes. Default: 0
        max_steps (int, optional): stops after this step. Default: None
        workers (int, optional): number of processes that draw scenes. Default: 1
        threads (int, optional): number of threads that compute. Default: 1

    Returns:
        Trainer, at its last step

    Raises:
        ValueError: ``folder`` holds the checkpoint of another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(world, recipe, seed)
    checkpoint, log = folder / CHECKPOINT_NAME, folder / LOG_NAME
    if checkpoint.exists():
        trainer.load_state(torch.load(checkpoint, weights_only=True))
    _cut_log(log, trainer.step)
    with _threads(threads):
        _run_steps(trainer, folder, max_steps, workers)
    save_checkpoint(trainer, folder)
    if trainer.step == len(trainer.data):
        trainer.model.eval()
        save_model(trainer, folder)
    return trainer


def _run_steps(
    trainer: Trainer, folder: Path, max_steps: int | None, workers: int
) -> None:
    total = len(trainer.data)
    last = total if max_steps is None else min(total, max_steps)
    loader = DataLoader(
        trainer.data,
        batch_size=None,
        sampler=range(trainer.step, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    started = time.monotonic() - trainer.seconds
    cpu_started = time.process_time() - trainer.cpu_seconds
    measures = Measures()
    progress = tqdm(
        loader,
        initial=trainer.step,
        total=total,
        unit="step",
        # In a file every update is a line of its own.
        mininterval=0.1 if sys.stderr.isatty() else 60,
    )
    with (folder / LOG_NAME).open("a") as log:
        for batch in progress:
            stage = trainer.data.locate(trainer.step)[0]
            measures.update(trainer.train_step(batch))
            trainer.seconds = time.monotonic() - started
            trainer.cpu_seconds = time.process_time() - cpu_started
            if trainer.step % LOG_EVERY == 0:
                shown = measures.rounded()
                measures = Measures()
                progress.set_description(stage.name, refresh=False)
                progress.set_postfix(shown, refresh=False)
                line = {
                    "step": trainer.step,
                    "seconds": round(trainer.seconds, 1),
                    "cpu_seconds": round(trainer.cpu_seconds, 1),
                    "stage": stage.name,
                }
                log.write(json.dumps(line | shown) + "\n")
                log.flush()
            if trainer.step % CHECKPOINT_EVERY == 0:
                save_checkpoint(trainer, folder)


def main(world: World, arguments: Sequence[str] | None = None) -> None:
    """The command line of ``python -m captum_dexar.WORLD.train``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m captum_dexar.{world.name}.train",
        description="Trains a small vision-language model on this world from scratch. "
        "After an interruption, the same command goes on.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default=next(iter(RECIPES)),
        help="what it learns from, and how fast; see captum_dexar/training/README.md "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--steps-scale",
        type=float,
        default=1.0,
        help="factor on the number of steps of every stage (default: 1)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads that compute, besides the process that draws scenes (default: 1)",
    )
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.recipe](world).scaled(options.steps_scale)
    trainer = train(
        world, recipe, options.out, seed=options.seed, threads=options.threads
    )
    print(
        f"{trainer.step} steps in {trainer.seconds / 60:.1f} minutes, "
        f"{trainer.cpu_seconds / 60:.1f} of processor time: {options.out}"
    )
