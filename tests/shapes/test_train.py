"""The training recipe, in a few steps: exact resumption, both variants, schedules."""

from pathlib import Path

import pytest
import torch
from captum_dexar.shapes import make_scene
from captum_dexar.shapes.recipe import recipe, TrainingSteps
from captum_dexar.shapes.scene import FIRST_TRAINING_SEED
from captum_dexar.shapes.supervision import IGNORED, patch_labels
from captum_dexar.shapes.train import main, train, Trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

# One step of every stage of the very recipe.
SCALE = 1e-4


def _weights(trainer: Trainer) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([p.flatten() for p in trainer.parameters])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(folder, seed=3, steps_scale=SCALE, workers=0)


def test_resumed_run_equals_uninterrupted_run(
    finished: tuple[Path, Trainer], tmp_path: Path
) -> None:
    part = train(tmp_path, seed=3, steps_scale=SCALE, max_steps=1, workers=0)
    assert part.step == 1
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(tmp_path, seed=3, steps_scale=SCALE, workers=0)
    assert resumed.step == finished[1].step == 4
    assert torch.equal(_weights(resumed), _weights(finished[1]))
    assert not torch.equal(_weights(part), _weights(resumed))


def test_trained_folder_loads_by_the_auto_classes(
    finished: tuple[Path, Trainer],
) -> None:
    folder, trainer = finished
    model = AutoModelForImageTextToText.from_pretrained(folder)
    expected = trainer.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "LlavaProcessor"


def test_another_run_s_checkpoint_is_refused(finished: tuple[Path, Trainer]) -> None:
    with pytest.raises(ValueError, match="seed 3 .*choose another folder"):
        train(finished[0], seed=4, steps_scale=SCALE, workers=0)


def test_command_line_without_patch_supervision(tmp_path: Path) -> None:
    command = ["--out", str(tmp_path), "--no-patch-supervision"]
    main([*command, "--steps-scale", str(SCALE)])
    assert (tmp_path / "model.safetensors").exists()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3


def test_variant_without_patch_supervision_has_no_patch_loss() -> None:
    stages = recipe(patch_supervision=False)
    assert [stage.name for stage in stages] == ["language", "hard cases", "finishing"]
    trainer = Trainer(0, recipe(patch_supervision=False, steps_scale=SCALE))
    heads = [parameter.detach().clone() for parameter in trainer.heads.parameters()]
    assert set(trainer.train_step(trainer.data[0])) == {"answers"}
    for before, after in zip(heads, trainer.heads.parameters()):
        assert torch.equal(before, after)


def test_a_restarting_stage_keeps_the_model_alone() -> None:
    stages = recipe(steps_scale=SCALE)
    (start,) = [index for index, stage in enumerate(stages) if stage.restarts]
    trainer = Trainer(5, stages)
    for step in range(start):
        trainer.train_step(trainer.data[step])
    model, heads, optimizer = trainer.model, trainer.heads, trainer.optimizer
    trainer.train_step(trainer.data[start])
    assert trainer.model is model
    assert trainer.heads is not heads and trainer.optimizer is not optimizer
    new = {id(parameter) for parameter in trainer.heads.parameters()}
    trained = {
        id(p) for group in trainer.optimizer.param_groups for p in group["params"]
    }
    assert new < trained


def test_training_lowers_the_loss_of_a_batch() -> None:
    trainer = Trainer(0, recipe(steps_scale=0.02))
    batch = trainer.data[0]
    losses = [trainer.train_step(batch)["patches"] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


def test_held_out_scenes_are_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def noted(seed: int, **kwargs: int):  # type: ignore[no-untyped-def]
        drawn.append(seed)
        return make_scene(seed, **kwargs)

    monkeypatch.setattr("captum_dexar.shapes.recipe.make_scene", noted)
    data = TrainingSteps(0, recipe(steps_scale=SCALE))
    for index in range(len(data)):
        data[index]
    assert min(drawn) >= FIRST_TRAINING_SEED == 1_000_000
    assert len(set(drawn)) == len(drawn)


def test_schedules_run_from_start_to_end() -> None:
    for stage in recipe():
        peak, end = stage.learning_rates
        rates = [stage.learning_rate(step) for step in range(stage.steps)]
        assert max(rates) == pytest.approx(peak)
        assert rates[-1] == pytest.approx(end, rel=0.02)
        start, last = stage.patch_weights
        assert stage.patch_weight(0) == start
        assert stage.patch_weight(stage.steps - 1) == pytest.approx(last)
    fading = [stage.patch_weights for stage in recipe()[1:]]
    assert fading == [(0.7, 0.07), (0.07, 0.07), (0.3, 0.3)]


def test_patch_labels_name_the_covering_object() -> None:
    scene = make_scene(11, num_objects=3)
    names = (
        ("circle", "square", "triangle", "star", "cross", "ring"),
        ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"),
        ("small", "large"),
    )
    labels = patch_labels([scene])
    assert labels.shape == (3, 1, 144)
    for row in range(12):
        for column in range(12):
            window = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            shares = [float(item.mask[window].mean()) for item in scene.objects]
            best = scene.objects[shares.index(max(shares))]
            found = labels[:, 0, 12 * row + column].tolist()
            if max(shares) == 0:
                assert found == [0, 0, 0]
            elif max(shares) < 0.2:
                assert found == [IGNORED] * 3
            else:
                values = (best.shape, best.colour, best.size)
                assert found == [n.index(v) + 1 for n, v in zip(names, values)]
