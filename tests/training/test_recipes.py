"""What the recipes are, and what a step of theirs does."""

from dataclasses import replace

import pytest
import torch
from captum_dexar.letters.world import WORLD as LETTERS
from captum_dexar.shapes.world import WORLD
from captum_dexar.training.batches import TrainingSteps
from captum_dexar.training.recipes import RECIPES
from captum_dexar.training.stages import Stage
from captum_dexar.training.trainer import Trainer
from captum_dexar.worlds.world import World
from tests.training.recipes import short_recipe

names = pytest.mark.parametrize("name", RECIPES)
worlds = pytest.mark.parametrize("world", [WORLD, LETTERS], ids=lambda w: w.name)


@names
def test_schedules_run_from_start_to_end(name: str) -> None:
    for stage in RECIPES[name](WORLD).stages:
        peak, end = stage.learning_rates
        rates = [stage.learning_rate(step) for step in range(stage.steps)]
        assert max(rates) == pytest.approx(peak)
        assert rates[-1] == pytest.approx(end, rel=0.05, abs=1e-5)
        start, last = stage.supervision_weights
        assert stage.supervision_weight(0) == start
        assert stage.supervision_weight(stage.steps - 1) == pytest.approx(last)


def test_the_bundled_model_s_recipe_stays() -> None:
    """Its model card says what it was trained with."""
    recipe = RECIPES["patches"](WORLD)
    assert not recipe.bfloat16 and not recipe.sinusoidal_positions
    assert [(s.name, s.steps, s.batch_size) for s in recipe.stages] == [
        ("vision", 2400, 32),
        ("language", 2400, 24),
        ("hard cases", 1400, 24),
        ("finishing", 1500, 24),
    ]
    fading = [stage.supervision_weights for stage in recipe.stages]
    assert fading == [(1.0, 1.0), (0.7, 0.07), (0.07, 0.07), (0.3, 0.3)]


def test_models_differ_in_their_supervision_only() -> None:
    patches, words = RECIPES["patches-fast"](WORLD), RECIPES["words"](WORLD)
    assert patches.supervision == "patches" and words.supervision == "words"

    def language(stages: tuple[Stage, ...]) -> list[Stage]:
        return [stage for stage in stages if stage.question_weights]

    assert language(patches.stages) == language(words.stages)
    assert patches.bfloat16 == words.bfloat16
    assert patches.sinusoidal_positions == words.sinusoidal_positions


@worlds
def test_words_are_learnt_without_masks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even read: the steps of scenes without any are the same."""

    class NoMask:
        def __init__(self, item: object) -> None:
            self._item = item

        def __getattr__(self, name: str) -> object:
            if name in ("mask", "center", "radius"):
                raise AssertionError(f"{name} was read.")
            return getattr(self._item, name)

    def without_masks(seed: int, *, num_objects: int | None = None):  # type: ignore
        scene = world.make_scene(seed, num_objects=num_objects)
        return replace(scene, objects=tuple(map(NoMask, scene.objects)))

    recipe = RECIPES["words"](world)
    stages = tuple(replace(s, steps=1, batch_size=3) for s in recipe.stages)
    short = replace(recipe, stages=stages)
    blind = TrainingSteps(replace(world, make_scene=without_masks), short, 0)
    seeing = TrainingSteps(world, short, 0)
    for index in range(len(blind)):
        assert torch.equal(blind[index].labels, seeing[index].labels)
        assert torch.equal(blind[index].pixel_values, seeing[index].pixel_values)
    patches = replace(short, supervision="patches")
    with pytest.raises(AssertionError, match="mask was read"):
        TrainingSteps(replace(world, make_scene=without_masks), patches, 0)[0]


@names
@worlds
def test_held_out_scenes_are_never_drawn(world: World, name: str) -> None:
    drawn = []

    def noted(seed: int, *, num_objects: int | None = None):  # type: ignore
        drawn.append(seed)
        return world.make_scene(seed, num_objects=num_objects)

    recipe = RECIPES[name](world).scaled(1e-4)
    data = TrainingSteps(replace(world, make_scene=noted), recipe, 0)
    for index in range(len(data)):
        data[index]
    assert min(drawn) >= world.first_training_seed == 1_000_000
    assert len(set(drawn)) == len(drawn)


def test_every_kind_of_question_is_drawn_at_some_time() -> None:
    for world in (WORLD, LETTERS):
        asked = {
            question.kind
            for seed in range(60)
            for question in world.make_scene(seed).questions
        }
        assert asked == set(world.question_kinds) == set(world.hard_kinds)


def test_a_restarting_stage_keeps_the_model_alone() -> None:
    recipe = short_recipe("patches", steps=1)
    (start,) = [index for index, stage in enumerate(recipe.stages) if stage.restarts]
    trainer = Trainer(WORLD, recipe, seed=5)
    for step in range(start):
        trainer.train_step(trainer.data[step])
    model, heads, optimizers = trainer.model, trainer.heads, trainer.optimizers
    trainer.train_step(trainer.data[start])
    assert trainer.model is model
    assert trainer.heads is not heads and trainer.optimizers is not optimizers
    new = {id(parameter) for parameter in trainer.heads.parameters()}
    trained = {
        id(p)
        for optimizer, _ in trainer.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert new < trained


def test_the_vision_tower_and_the_projector_have_a_rate_of_their_own() -> None:
    recipe = short_recipe("patches-fast", steps=2)
    last = recipe.stages[-1]
    slow = replace(last, vision_rate=0.0, warm_up=0, learning_rates=(1e-3, 1e-3))
    trainer = Trainer(WORLD, replace(recipe, stages=(slow,)))
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train_step(trainer.data[0])
    for name, parameter in trainer.model.named_parameters():
        sees = "vision_tower" in name or "projector" in name
        if parameter.grad is not None and parameter.grad.any():
            assert torch.equal(parameter, before[name]) == sees, name
    for optimizer, factor in trainer.optimizers:
        for group in optimizer.param_groups:
            assert group["lr"] == (0.0 if group["sees"] else factor * 1e-3)


@names
def test_every_parameter_has_one_optimizer(name: str) -> None:
    trainer = Trainer(WORLD, short_recipe(name))
    trained = [
        id(p)
        for optimizer, _ in trainer.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    expected = [*trainer.model.parameters(), *trainer.heads.parameters()]
    assert sorted(trained) == sorted(id(p) for p in expected)
    assert len(trainer.optimizers) == (2 if trainer.recipe.muon else 1)


@names
def test_training_lowers_the_loss_of_a_batch(name: str) -> None:
    recipe = RECIPES[name](WORLD)
    stages = tuple(replace(s, batch_size=8, warm_up=2) for s in recipe.stages)
    trainer = Trainer(WORLD, replace(recipe, stages=stages))
    batch = trainer.data[0]
    losses = [trainer.train_step(batch)[trainer.recipe.supervision] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
