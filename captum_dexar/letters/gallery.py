"""Draws scenes with their captions: ``python -m captum_dexar.letters.gallery``."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

from captum_dexar.letters.scene import make_scene
from matplotlib.figure import Figure

COLUMNS = 4
INCHES = 2.6
CAPTION_WIDTH = 36


def gallery(seeds: Iterable[int]) -> Figure:
    """Scenes in rows of four, each with its caption.

    Args:
        seeds (iterable of int): seeds of the scenes

    Returns:
        matplotlib.figure.Figure

    Examples::

        >>> from captum_dexar.letters.gallery import gallery
        >>> len(gallery(range(6)).axes)
        6
    """
    scenes = [make_scene(seed) for seed in seeds]
    rows = -(-len(scenes) // COLUMNS)
    figure = Figure(figsize=(INCHES * COLUMNS, 1.2 * INCHES * rows))
    figure.subplots_adjust(0.01, 0.1, 0.99, 0.99, wspace=0.05, hspace=0.27)
    for place, scene in enumerate(scenes, start=1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        axes.imshow(scene.image, interpolation="bicubic")
        axes.set_axis_off()
        axes.text(
            0.5,
            -0.04,
            fill(scene.caption, CAPTION_WIDTH),
            ha="center",
            va="top",
            fontsize=8.5,
            transform=axes.transAxes,
        )
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m captum_dexar.letters.gallery", description=__doc__
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    gallery(seeds).savefig(options.out, dpi=90)


if __name__ == "__main__":
    main()
