"""Runs in a few steps: exact resumption in every stage, the log, the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar.shapes.world import WORLD
from captum_dexar.training import run
from captum_dexar.training.recipes import RECIPES
from captum_dexar.training.run import CHECKPOINT_NAME, LOG_NAME, main, train
from captum_dexar.training.trainer import Trainer
from tests.training.recipes import short_recipe, weights
from transformers import AutoModelForImageTextToText, AutoProcessor

PROJECT = Path(__file__).parents[2]

# Writes half of a checkpoint and is killed.
KILLED = """
import io, os, signal, sys
from pathlib import Path
import torch
from captum_dexar.shapes.world import WORLD
from captum_dexar.training import run
from tests.training.recipes import short_recipe

name, folder, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
save, saved = torch.save, []

def save_and_be_killed(state, path):
    saved.append(path)
    if len(saved) <= steps:
        return save(state, path)
    whole = io.BytesIO()
    save(state, whole)
    with open(path, "wb") as file:
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save_and_be_killed
run.CHECKPOINT_EVERY = run.LOG_EVERY = 1
run.train(WORLD, short_recipe(name), folder, seed=3, workers=0)
"""


@pytest.fixture(scope="module", params=RECIPES)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Trainer]:
    """An uninterrupted run of each recipe, with a log of every step."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "LOG_EVERY", 1)
        recipe = short_recipe(request.param)
        trainer = train(WORLD, recipe, folder, seed=3, workers=0)
    return request.param, folder, trainer


def _log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / LOG_NAME).read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if "seconds" not in key}
        for line in lines
    ]


def test_run_interrupted_after_every_step_equals_uninterrupted_run(
    finished: tuple[str, Path, Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder, whole = finished
    monkeypatch.setattr(run, "LOG_EVERY", 1)
    seen = [weights(Trainer(WORLD, short_recipe(name), seed=3))]
    for step in range(1, whole.step + 1):
        assert not (tmp_path / "model.safetensors").exists()
        part = train(
            WORLD, short_recipe(name), tmp_path, seed=3, max_steps=step, workers=0
        )
        assert part.step == step
        assert not torch.equal(weights(part), seen[-1])
        seen.append(weights(part))
    assert torch.equal(seen[-1], weights(whole))
    assert _log(tmp_path) == _log(folder)
    assert (tmp_path / "model.safetensors").exists()


# In the middle of the first stage and of the last one; checkpoints of all recipes are
# written by the same lines.
@pytest.mark.parametrize("finished", ["words"], indirect=True)
@pytest.mark.parametrize("from_end", [False, True])
def test_run_killed_while_saving_goes_on_from_the_checkpoint_before(
    finished: tuple[str, Path, Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    from_end: bool,
) -> None:
    name, folder, whole = finished
    steps = whole.step - 2 if from_end else 1
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, name, str(tmp_path), str(steps)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    half = tmp_path / f"{CHECKPOINT_NAME}.new"
    with pytest.raises(RuntimeError):
        torch.load(half, weights_only=True)
    state = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert state["step"] == steps
    assert _log(tmp_path)[-1]["step"] == steps + 1
    monkeypatch.setattr(run, "LOG_EVERY", 1)
    resumed = train(WORLD, short_recipe(name), tmp_path, seed=3, workers=0)
    assert torch.equal(weights(resumed), weights(whole))
    assert _log(tmp_path) == _log(folder)


def test_run_killed_before_its_model_was_saved_saves_it(
    finished: tuple[str, Path, Trainer], tmp_path: Path
) -> None:
    name, folder, whole = finished
    shutil.copy(folder / CHECKPOINT_NAME, tmp_path)
    shutil.copy(folder / LOG_NAME, tmp_path)
    again = train(WORLD, short_recipe(name), tmp_path, seed=3, workers=0)
    assert torch.equal(weights(again), weights(whole))
    model = "model.safetensors"
    assert (tmp_path / model).read_bytes() == (folder / model).read_bytes()
    assert _log(tmp_path) == _log(folder)


def test_a_worker_draws_the_same_scenes(
    finished: tuple[str, Path, Trainer], tmp_path: Path
) -> None:
    name, _, whole = finished
    other = train(WORLD, short_recipe(name), tmp_path, seed=3, workers=1)
    assert torch.equal(weights(other), weights(whole))


def test_an_unfinished_line_of_the_log_is_dropped(
    finished: tuple[str, Path, Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder, _ = finished
    monkeypatch.setattr(run, "LOG_EVERY", 1)
    recipe = short_recipe(name)
    train(WORLD, recipe, tmp_path, seed=3, max_steps=1, workers=0)
    with (tmp_path / LOG_NAME).open("a") as log:
        log.write('{"step": 2, "sec')
    train(WORLD, recipe, tmp_path, seed=3, max_steps=2, workers=0)
    assert _log(tmp_path) == _log(folder)[:2]


def test_trained_folder_loads_by_the_auto_classes(
    finished: tuple[str, Path, Trainer],
) -> None:
    _, folder, trainer = finished
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config._attn_implementation == "sdpa"
    assert trainer.model.config._attn_implementation == "sdpa"
    expected = trainer.model.state_dict()
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "LlavaProcessor"


def test_the_log_has_times_and_exact_answers(
    finished: tuple[str, Path, Trainer],
) -> None:
    name, folder, trainer = finished
    lines = [json.loads(line) for line in (folder / LOG_NAME).open()]
    assert [line["step"] for line in lines] == list(range(1, trainer.step + 1))
    for key in ("seconds", "cpu_seconds"):
        times = [line[key] for line in lines]
        assert times == sorted(times) and times[-1] > 0
    names = [stage.name for stage in trainer.recipe.stages for _ in range(2)]
    assert [line["stage"] for line in lines] == names
    assert {"answers", "count"} < set(lines[-1])
    assert any(key.startswith("caption of ") for key in lines[-1])


def test_another_run_s_checkpoint_is_refused(
    finished: tuple[str, Path, Trainer],
) -> None:
    name, folder, _ = finished
    with pytest.raises(ValueError, match="seed 4.*Choose another folder"):
        train(WORLD, short_recipe(name), folder, seed=4, workers=0)
    with pytest.raises(ValueError, match="other stages.*Choose another folder"):
        train(WORLD, short_recipe(name, steps=3), folder, seed=3, workers=0)


def test_threads_are_set_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    recipe = short_recipe("words")
    train(WORLD, recipe, tmp_path, max_steps=1, workers=0, threads=other)
    assert torch.get_num_threads() == before


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {name: lambda _, name=name: short_recipe(name) for name in RECIPES}
    monkeypatch.setattr(run, "RECIPES", recipes)
    main(WORLD, ["--out", str(tmp_path), "--recipe", "words", "--steps-scale", "0.5"])
    state = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    stages = len(RECIPES["words"](WORLD).stages)
    assert state["step"] == stages
    assert f"{stages} steps in 0." in capsys.readouterr().out
