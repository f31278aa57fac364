"""Accuracy of answers, for a world that has no bundled model."""

from pathlib import Path

import pytest
import torch
from captum_dexar.letters.world import WORLD
from captum_dexar.shapes.bundled import VLM_FOLDER
from captum_dexar.shapes.world import WORLD as SHAPES
from captum_dexar.worlds.accuracy import main, measure_accuracy
from captum_dexar.worlds.model import build_model
from captum_dexar.worlds.processing import build_processor


def test_an_untrained_model_answers_nothing_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(WORLD).eval()
    processor = build_processor(WORLD.vocabulary, WORLD.image_size)
    accuracy = measure_accuracy(WORLD, model, processor, range(3))
    scenes = [WORLD.make_scene(seed) for seed in range(3)]
    asked = [f"caption of {len(scene.objects)}" for scene in scenes]
    asked += [question.kind for scene in scenes for question in scene.questions]
    assert {kind: value.asked for kind, value in accuracy.items()} == {
        kind: asked.count(kind) for kind in asked
    }
    assert not any(value.right for value in accuracy.values())
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    main(WORLD, ["--model", str(tmp_path), "--scenes", "3"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        f"| {kind} | 0 | {value.asked} | 0.000 |" for kind, value in accuracy.items()
    ]


def test_a_world_without_a_model_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(WORLD, [])
    assert "--model" in capsys.readouterr().err


def test_a_bundled_model_is_measured_without_a_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(SHAPES, ["--scenes", "1", "--first-seed", "7"], VLM_FOLDER)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows and all(row.endswith("| 1.000 |") for row in rows)
