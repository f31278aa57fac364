"""The recipes: which stages a model goes through."""

from collections.abc import Callable

from captum_dexar.training.stages import Recipe, Stage
from captum_dexar.worlds.world import World


def patches(world: World) -> Recipe:
    """How the bundled model was trained: patch supervision, in float32."""
    even, hard = world.question_kinds, world.hard_kinds
    stages = (
        Stage("vision", 2400, 32, (2e-3, 4e-4), 100, (1.0, 1.0), {}, (1, 1, 1)),
        Stage("language", 2400, 24, (1.5e-3, 8e-4), 150, (0.7, 0.07), even, (1, 1, 1)),
        Stage("hard cases", 1400, 24, (8e-4, 1e-5), 0, (0.07, 0.07), hard, (1, 1.5, 3)),
        Stage(
            "finishing",
            steps=1500,
            batch_size=24,
            learning_rates=(4e-4, 1e-6),
            warm_up=200,
            supervision_weights=(0.3, 0.3),
            question_weights=even,
            object_weights=(1, 3, 2.5),
            questions=(3, 5),
            restarts=True,
        ),
    )
    return Recipe("patches", "patches", stages)


def patches_fast(world: World) -> Recipe:
    """Patch supervision, in less time, with the same later stages as ``words``."""
    vision = Stage("vision", 1200, 32, (2e-3, 5e-4), 100, (1.0, 1.0), {}, (1, 1, 1))
    return Recipe(
        "patches-fast",
        "patches",
        (vision, *_language(world)),
        bfloat16=True,
        sinusoidal_positions=True,
        muon=True,
    )


def words(world: World) -> Recipe:
    """No patch supervision: nothing but words.

    The vision tower begins with images of one object, then sees several.
    """
    one = Stage("one object", 700, 32, (2e-3, 1.5e-3), 100, (1.0, 1.0), {}, (1, 0, 0))
    vision = Stage("vision", 2400, 32, (1.5e-3, 3e-4), 0, (1.0, 1.0), {}, (1, 1, 1))
    return Recipe(
        "words",
        "words",
        (one, vision, *_language(world)),
        bfloat16=True,
        sinusoidal_positions=True,
        muon=True,
    )


def _language(world: World) -> tuple[Stage, ...]:
    even, hard = world.question_kinds, world.hard_kinds
    language = Stage(
        "language",
        steps=2000,
        batch_size=16,
        learning_rates=(1.5e-3, 8e-4),
        warm_up=100,
        supervision_weights=(0.7, 0.3),
        question_weights=even,
        object_weights=(1, 1, 1),
        # At the full rate the image tokens lose shapes that they had learnt.
        vision_rate=0.2,
    )
    hard_cases = Stage(
        "hard cases",
        steps=2200,
        batch_size=16,
        learning_rates=(8e-4, 1e-6),
        warm_up=0,
        supervision_weights=(0.3, 0.1),
        question_weights=hard,
        object_weights=(1, 2, 3),
        vision_rate=0.2,
    )
    return language, hard_cases


RECIPES: dict[str, Callable[[World], Recipe]] = {
    "patches": patches,
    "patches-fast": patches_fast,
    "words": words,
}
