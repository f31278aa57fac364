"""Labels and heads of words that are true of an image, wherever that may be."""

import itertools

import pytest
import torch
from captum_dexar.letters.world import WORLD as LETTERS
from captum_dexar.shapes.world import WORLD
from captum_dexar.training.words import word_labels, WordHeads
from captum_dexar.worlds.world import World


@pytest.mark.parametrize("world", [WORLD, LETTERS], ids=lambda w: w.name)
def test_labels_are_the_caption_s_words(world: World) -> None:
    scenes = [world.make_scene(seed) for seed in range(40)]
    labels = word_labels(world, scenes)
    names = [word for words in world.attributes.values() for word in words]
    phrases = list(itertools.product(*world.attributes.values()))
    assert labels.shape == (40, len(names) + len(phrases))
    for scene, row in zip(scenes, labels.bool().tolist()):
        said = scene.caption.split()
        true_names = [name for name, true in zip(names, row) if true]
        assert set(true_names) == set(said) & set(names)
        true_phrases = [p for p, true in zip(phrases, row[len(names) :]) if true]
        # An object's words stand side by side, in another order.
        windows = {frozenset(said[i : i + 3]) for i in range(len(said) - 2)}
        assert {frozenset(phrase) for phrase in true_phrases} == {
            window for window in windows if window <= set(names)
        }


def test_the_order_of_image_tokens_does_not_matter() -> None:
    torch.manual_seed(0)
    heads = WordHeads(WORLD, 8)
    features, labels = torch.randn(2, 144, 8), word_labels(
        WORLD, [WORLD.make_scene(seed) for seed in range(2)]
    )
    loss, _ = heads(features, labels)
    moved, _ = heads(features[:, torch.randperm(144)], labels)
    torch.testing.assert_close(moved, loss)


def test_one_token_is_enough() -> None:
    """The logit of an image is the logarithm of the tokens' mean odds."""
    heads = WordHeads(WORLD, 8)
    labels = word_labels(WORLD, [WORLD.make_scene(3, num_objects=2)])
    torch.nn.init.zeros_(heads.head.weight)
    with torch.no_grad():
        heads.head.weight[:, 0] = torch.where(labels[0] > 0, 30.0, -30.0)
    features = torch.zeros(1, 144, 8)
    weak, measures = heads(features, labels)
    features[0, 77, 0] = 1
    strong, measures = heads(features, labels)
    assert strong < 0.5 * weak
    assert {name: measures[name] for name in measures} == {
        "word shape": 1.0,
        "word colour": 1.0,
        "word size": 1.0,
        "word phrase": 1.0,
    }


def test_measures_count_the_likeliest_words() -> None:
    heads = WordHeads(WORLD, 8)
    labels = word_labels(WORLD, [WORLD.make_scene(3, num_objects=1)])
    with torch.no_grad():
        heads.head.bias.copy_(labels[0])
        first = int(labels[0, :6].argmax())
        heads.head.bias[(first + 1) % 6] = 2
    _, measures = heads(torch.zeros(1, 144, 8), labels)
    assert measures["word shape"] == 0
    assert measures["word colour"] == measures["word phrase"] == 1
