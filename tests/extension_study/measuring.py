"""Measures all methods on one model, and keeps what the tables need as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from captum_dexar.evaluation import LettersDataset, ShapesDataset
from captum_dexar.evaluation.datasets.drawn_scenes import DrawnScenesDataset, OBJECTS
from captum_dexar.evaluation.protocols.base import Line
from captum_dexar.evaluation.results_folder import read_lines, read_run
from captum_dexar.evaluation.runner import Job, run
from captum_dexar.evaluation.statistics import clustered_auroc, Column
from captum_dexar.letters.world import WORLD as LETTERS
from captum_dexar.shapes.world import WORLD as SHAPES
from captum_dexar.worlds.accuracy import measure_accuracy
from captum_dexar.worlds.world import World
from tests.extension_study.methods import one_pass_methods, slow_methods
from tests.extension_study.models import StudiedModel
from tests.extension_study.protocol import BothProtocols, EQUATION_6
from transformers import AutoProcessor, LlavaForConditionalGeneration

# Per scene are kept the means of these measures over the words of these kinds.
MEASURES = ("pointing", "soft-IoU", "EPG", "Spearman", "overlap")
DIGITS = 4


@dataclass(frozen=True)
class StudiedWorld:
    """A world and how its scenes are measured.

    Attributes:
        world (World): the world
        dataset (type): its dataset
        kinds (tuple of str): kinds of words that are measured one by one
    """

    world: World
    dataset: type[DrawnScenesDataset]
    kinds: tuple[str, ...]


WORLDS = {
    "shapes": StudiedWorld(SHAPES, ShapesDataset, ("colour", "shape", "size")),
    "letters": StudiedWorld(LETTERS, LettersDataset, ("colour", "character", "size")),
}


def measure(
    model: StudiedModel,
    model_folder: Path,
    folder: Path,
    *,
    first_seed: int,
    num_scenes: int,
    num_slow: int,
    accuracy_scenes: int,
) -> dict[str, Any]:
    """Measures all methods on one model; started again, it goes on where it was.

    Args:
        model (StudiedModel): the model
        model_folder (pathlib.Path): its folder
        folder (pathlib.Path): where measurements are kept
        first_seed (int): the first scene
        num_scenes (int): scenes of the methods of one pass
        num_slow (int): scenes of Integrated Gradients and occlusion, the first of them
        accuracy_scenes (int): scenes of the accuracy

    Returns:
        dict, as JSON takes it
    """
    studied = WORLDS[model.world]
    vlm = LlavaForConditionalGeneration.from_pretrained(model_folder).eval()
    processor = AutoProcessor.from_pretrained(model_folder, backend="pil")
    parts = {
        "one-pass": (num_scenes, one_pass_methods(vlm, processor)),
        "slow": (num_slow, slow_methods(vlm)),
    }
    kept: dict[str, Any] = {
        **asdict(model),
        "commands": {
            "train": model.command,
            "measure": f"python -m tests.extension_study measure {model.name}",
        },
        "scenes": [first_seed, num_scenes],
        "slow_scenes": [first_seed, num_slow],
    }
    methods: dict[str, Any] = {}
    for part, (count, given) in parts.items():
        if not count:
            continue
        dataset = studied.dataset(
            range(first_seed, first_seed + count),
            processor,
            vlm,
            kinds=(*studied.dataset.word_kinds, OBJECTS),
        )
        job = Job(dataset, given, BothProtocols(dataset), vlm, processor, first_seed)
        run(job, folder / part, progress=True)
        described = read_run(folder / part)
        kept |= {name: described[name] for name in ("model", "versions")}
        seeds = [str(seed) for seed in dataset.seeds]
        methods |= condensed(read_lines(folder / part), seeds, studied.kinds)
    answers = measure_accuracy(
        studied.world,
        vlm,
        processor,
        range(first_seed, first_seed + accuracy_scenes),
        show_progress=True,
    )
    accuracy = {kind: [one.right, one.asked] for kind, one in answers.items()}
    return {**kept, "accuracy": accuracy, "methods": methods}


def condensed(
    lines: Iterable[Line], samples: Sequence[str], kinds: Sequence[str]
) -> dict[str, Any]:
    """What tables and tests need of the measurements, by method.

    Args:
        lines (iterable of Line): the measurements
        samples (sequence of str): the scenes, in the order in which they are kept
        kinds (sequence of str): kinds of words whose means are kept per scene

    Returns:
        dict; of each method

        - ``"means"``: ``[mean, number]`` by kind and measure
        - ``"scenes"``: the mean over the words of ``kinds`` in each scene, by measure;
          null where there is nothing to measure
        - ``"AUROC"``: of its weights by their name, ``[value, low, high]``
        - ``"constant maps"``, ``"failed"``, ``"seconds"``: numbers, and the mean time
    """
    by_method: dict[str, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        by_method[line.method][line.sample] = line
    return {
        method: _of_method([of_sample.get(one) for one in samples], kinds)
        for method, of_sample in by_method.items()
    }


def _of_method(lines: Sequence[Line | None], kinds: Sequence[str]) -> dict[str, Any]:
    known = [line for line in lines if line is not None and line.error is None]
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in known:
        for kind, of_kind in line.values.items():
            for measure, numbers in of_kind.items():
                values[kind][measure] += [one for one in numbers if one is not None]
    return {
        "means": {
            kind: {
                measure: [_rounded(float(np.mean(numbers))), len(numbers)]
                for measure, numbers in of_kind.items()
                if numbers
            }
            for kind, of_kind in sorted(values.items())
        },
        "scenes": {
            measure: [_scene_mean(line, measure, kinds) for line in lines]
            for measure in MEASURES
        },
        "AUROC": {
            name: found
            for name in ("token_weights", EQUATION_6)
            if (found := _auroc(lines, name)) is not None
        },
        "constant maps": sum(sum(line.degenerate.values()) for line in known),
        "failed": len(lines) - len(known),
        "seconds": _rounded(float(np.mean([line.seconds for line in known]))),
    }


def _scene_mean(line: Line | None, measure: str, kinds: Sequence[str]) -> float | None:
    if line is None:
        return None
    numbers = [
        number
        for kind in kinds
        for number in line.values.get(kind, {}).get(measure, [])
        if number is not None
    ]
    return _rounded(float(np.mean(numbers))) if numbers else None


def _auroc(lines: Sequence[Line | None], name: str) -> list[float | None] | None:
    weights, clusters, has_place = [], [], []
    for cluster, line in enumerate(lines):
        of_line = {} if line is None else line.details.get(name, {})
        for part, numbers in of_line.items():
            weights += numbers
            clusters += [cluster] * len(numbers)
            has_place += [part == "with_mask"] * len(numbers)
    if not any(has_place) or all(has_place):
        return None
    column = Column(np.array(weights), np.array(clusters, dtype=np.int64))
    found = clustered_auroc(column, np.array(has_place), len(lines))
    return [_rounded(one) for one in (found.value, found.low, found.high)]


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)


def save(kept: dict[str, Any], path: Path) -> None:
    """Writes what is kept, with a line for each measure of a method."""
    methods = ",\n".join(
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(
            f"   {json.dumps(key)}: {_lines_of(value)}" for key, value in one.items()
        )
        + "\n  }"
        for name, one in kept["methods"].items()
    )
    about = {key: value for key, value in kept.items() if key != "methods"}
    text = json.dumps(about, indent=1).removesuffix("\n}")
    path.write_text(f'{text},\n "methods": {{\n{methods}\n }}\n}}\n')


def _lines_of(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    inside = ",\n".join(
        f"    {json.dumps(key)}: {json.dumps(one, separators=(',', ':'))}"
        for key, one in value.items()
    )
    return f"{{\n{inside}\n   }}"
