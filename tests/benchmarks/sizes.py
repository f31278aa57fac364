"""How much is measured: in full, or for a smoke run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """What the benchmarks share; ``grid`` is the image tokens a side.

    Attributes:
        grid, batch_grid, long_grid (int): of most benchmarks, of batches that generate,
            and of the long prompt
        layers (tuple of int): decoder layers; the last is the whole model
        short, long, in_batch (int): tokens of an answer
        pairs, long_pairs, batch_pairs, repeats (int): how often a thing is timed
        long_prompt (int): tokens of the long prompt
        answers (tuple of int), grids (tuple of int), batches (tuple of int): to scale
            over
        steps (int): of Integrated Gradients
        explanations (int): one after the other in one process
    """

    grid: int = 24
    batch_grid: int = 12
    long_grid: int = 64
    layers: tuple[int, ...] = (10, 20, 30)
    short: int = 32
    long: int = 128
    in_batch: int = 64
    pairs: int = 5
    long_pairs: int = 3
    batch_pairs: int = 2
    repeats: int = 5
    long_prompt: int = 10_000
    answers: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    grids: tuple[int, ...] = (12, 24, 36, 48, 64)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    steps: int = 8
    explanations: int = 2000


FULL = Sizes()
QUICK = Sizes(
    grid=6,
    batch_grid=6,
    long_grid=16,
    layers=(1, 2, 3),
    short=4,
    long=8,
    in_batch=4,
    pairs=2,
    long_pairs=1,
    batch_pairs=1,
    repeats=1,
    long_prompt=400,
    answers=(2, 4, 8),
    grids=(4, 6, 8),
    batches=(1, 2),
    steps=2,
    explanations=40,
)
