"""Untrained models of a world."""

import pytest
import torch
from captum_dexar.letters.world import WORLD as LETTERS
from captum_dexar.shapes import load_vlm
from captum_dexar.shapes.world import WORLD
from captum_dexar.worlds.model import build_model, POSITION_SCALE, sinusoids
from captum_dexar.worlds.world import World


def test_the_bundled_model_has_this_architecture() -> None:
    built, (bundled, _) = build_model(WORLD), load_vlm()
    assert type(built) is type(bundled)
    for part in ("vision_config", "text_config"):
        ours = getattr(built.config, part).to_diff_dict()
        theirs = getattr(bundled.config, part).to_diff_dict()
        for key in ("_name_or_path", "dtype", "transformers_version"):
            ours.pop(key, None), theirs.pop(key, None)
        assert ours == theirs
    shapes = {name: value.shape for name, value in built.state_dict().items()}
    assert shapes == {name: v.shape for name, v in bundled.state_dict().items()}


@pytest.mark.parametrize("world", [WORLD, LETTERS], ids=lambda w: w.name)
def test_a_world_gives_its_words(world: World) -> None:
    model = build_model(world)
    assert model.lm_head.out_features == len(world.vocabulary)
    assert model.config.image_seq_length == (world.image_size // 8) ** 2


def test_sinusoidal_positions_change_nothing_else() -> None:
    states = []
    for sinusoidal in (False, True):
        torch.manual_seed(0)
        states.append(build_model(WORLD, sinusoidal).state_dict())
    changed = [name for name in states[0] if not states[0][name].equal(states[1][name])]
    (name,) = changed
    assert name.endswith("position_embedding.weight")
    before, after = states[0][name], states[1][name]
    assert torch.equal(before[0], after[0])
    assert torch.equal(after[1:], POSITION_SCALE * sinusoids(12, 96))


def test_sinusoids_tell_rows_and_columns() -> None:
    table = sinusoids(5, 16).reshape(5, 5, 16)
    rows, columns = table[..., :8], table[..., 8:]
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1].expand_as(columns))
    assert len(table.flatten(0, 1).unique(dim=0)) == 25
    # Shifted places are rotated alike: their products depend on the distance only.
    products = rows[:, 0] @ rows[:, 0].T
    torch.testing.assert_close(products[0, 2], products[1, 3])
    torch.testing.assert_close(products[0, 1], products[3, 4])
