"""What a word keeps when only the top of its map is shown."""

import math
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, VLMAttribution
from captum_dexar.baselines import LayerAttention, LayerUniformMap
from captum_dexar.metrics import sufficiency
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.perturbed import boxed, literal_log_probs, literal_order, mean_colour

PROMPT = "Describe the image."


def test_a_second_implementation() -> None:
    """The boxes of the twelve largest values of the word's own map are shown."""
    model, processor = load_vlm()
    scene = make_scene(0)
    inp = ImagePromptInput(scene.image, PROMPT, processor)
    method = VLMAttribution(LayerAttention(model), processor)
    result = method.attribute(inp, "a red circle .")
    ids = result.target_ids.tolist()
    word = result.words()[1]
    (place,) = word.tokens
    ranked = literal_order(result.token_attr[place])

    def log_prob(hidden: list[int]) -> float:
        corners = [(8 * (k // 12), 8 * (k % 12)) for k in hidden]
        boxes = [(y, x, y + 8, x + 8) for y, x in corners]
        shown = boxed(scene.image, boxes, mean_colour(scene.image))
        made = processor(images=shown, text=inp.prompt, return_tensors="pt")
        return literal_log_probs(model, made, ids)[place]

    found = sufficiency(model, inp, result, word, fraction=12 / 144)
    whole, top, empty = log_prob([]), log_prob(ranked[12:]), log_prob(ranked)
    assert found.fraction == 12 / 144 and not found.is_degenerate
    assert found.unperturbed_log_prob == pytest.approx(whole, abs=1e-5)
    assert found.log_prob == pytest.approx(top, abs=1e-5)
    assert found.empty_log_prob == pytest.approx(empty, abs=1e-5)
    assert found.kept == pytest.approx(top - whole, abs=2e-5)
    assert found.kept_by_nothing == pytest.approx(empty - whole, abs=2e-5)


def test_the_true_object_is_enough_and_the_rest_is_not() -> None:
    """On the words of three scenes that the image decides."""
    model, processor = load_vlm()
    gained: list[float] = []
    lost: list[float] = []
    for seed in range(3):
        scene = make_scene(seed)
        inp = ImagePromptInput(scene.image, PROMPT, processor)
        ids = processor.tokenizer(scene.caption, add_special_tokens=False)["input_ids"]
        for position, word in enumerate(scene.caption_words):
            if word.kind != "colour" or word.object_index is None:
                continue
            mask = torch.from_numpy(
                scene.objects[word.object_index].mask.copy()
            ).float()
            for heat, found in ((mask, gained), (-mask, lost)):
                arguments: Any = {"fraction": 0.25, "target": ids}
                one = sufficiency(model, inp, heat, position, **arguments)
                found.append(one.kept - one.kept_by_nothing)
    assert len(gained) == len(lost) == 8
    assert sum(lost) / 8 < 0 < 1 < sum(gained) / 8


def test_everything_shown_keeps_everything() -> None:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(2).image, PROMPT, processor)
    method = VLMAttribution(LayerUniformMap(model), processor)
    result: Any = method.attribute(inp, "a red circle .")
    found = sufficiency(model, inp, result, 2, fraction=1.0)
    assert found.kept == 0.0 and found.is_degenerate
    # A map of any origin, with the answer beside it.
    heat = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    found = sufficiency(model, inp, heat, 2, result.target_ids, fraction=1.0)
    assert found.kept == 0.0 and not found.is_degenerate and found.fraction == 1.0
    for fraction in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            sufficiency(model, inp, result, 2, fraction=fraction)
