"""Packed turns have the loss that each would have alone."""

import pytest
import torch
from captum_dexar.shapes import load_vlm, make_scene
from captum_dexar.shapes.world import WORLD
from captum_dexar.training.batches import pixel_values
from captum_dexar.training.packing import (
    answer_logits,
    answer_loss,
    exact_answers,
    pack,
    PackedBatch,
    Turn,
)
from captum_dexar.worlds.model import build_model
from transformers import LlavaForConditionalGeneration

# The bundled model gets the captions of the first two wrong.
HARD = (5003, 5027, 5000, 5001)
SCENES = [make_scene(seed) for seed in (1, 4)]
TURNS = [
    [
        Turn("describe the image .", scene.caption),
        *(Turn(item.text, item.answer) for item in scene.questions[: 3 + index]),
    ]
    for index, scene in enumerate(SCENES)
]


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(WORLD).eval()


def _packed(turns: list[list[Turn]]) -> PackedBatch:
    return pack(turns, WORLD.vocabulary, 144)


def _loss(model: LlavaForConditionalGeneration, batch: PackedBatch) -> torch.Tensor:
    logits, _ = answer_logits(
        model, pixel_values(SCENES[: len(batch.input_ids)]), batch
    )
    return answer_loss(logits, batch)


def _separate(model: LlavaForConditionalGeneration) -> tuple[torch.Tensor, int]:
    """Summed loss and tokens of the turns, each by the model's own forward."""
    total, tokens = torch.zeros(()), 0
    for scene, turns in zip(SCENES, TURNS):
        for turn in turns:
            ids = _packed([[turn]]).input_ids
            answered = len(turn.answer.split()) + 1
            labels = ids.clone()
            labels[:, :-answered] = -100
            loss = model(
                input_ids=ids, pixel_values=pixel_values([scene]), labels=labels
            ).loss
            total, tokens = total + loss * answered, tokens + answered
    return total, tokens


def test_packed_loss_is_the_loss_of_separate_turns(
    model: LlavaForConditionalGeneration,
) -> None:
    total, tokens = _separate(model)
    packed = _packed(TURNS)
    loss = _loss(model, packed)
    assert len(packed.answer_ids) == tokens
    torch.testing.assert_close(loss, total / tokens, rtol=1e-5, atol=1e-6)


def test_packed_gradient_is_the_gradient_of_separate_turns(
    model: LlavaForConditionalGeneration,
) -> None:
    total, tokens = _separate(model)
    loss = _loss(model, _packed(TURNS))
    parameters = [
        model.model.language_model.layers[0].self_attn.k_proj.weight,
        model.model.multi_modal_projector.linear_1.weight,
        model.lm_head.weight,
    ]
    expected = torch.autograd.grad(total / tokens, parameters)
    for one, other in zip(torch.autograd.grad(loss, parameters), expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_turn_does_not_see_the_others(model: LlavaForConditionalGeneration) -> None:
    scene = SCENES[:1]
    last = TURNS[0][-1]
    seen = []
    for first in ("red", "a large blue star"):
        packed = _packed([[Turn("what is on the left ?", first), last]])
        logits, _ = answer_logits(model, pixel_values(scene), packed)
        seen.append(logits[packed.answer_turns == 1])
    assert len(seen[0]) == len(last.answer.split()) + 1
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-6)


def test_exact_answers_are_those_of_greedy_decoding() -> None:
    """Asked of the bundled model, before captions of scenes that it gets wrong, too."""
    model, processor = load_vlm()
    scenes = [make_scene(seed, num_objects=3) for seed in HARD]
    captions = [
        Turn(WORLD.caption_prompt, scene.caption, "caption") for scene in scenes
    ]
    packed = _packed([[turn] for turn in captions])
    assert packed.kinds == ("caption",) * len(scenes)
    with torch.no_grad():
        logits, _ = answer_logits(model, pixel_values(scenes), packed)
    exact = exact_answers(logits, packed).tolist()
    prompt = "USER: <image>\n" + WORLD.caption_prompt + " ASSISTANT:"
    for scene, right in zip(scenes, exact):
        inputs = processor(images=scene.image, text=prompt, return_tensors="pt")
        ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        answer = processor.decode(ids, skip_special_tokens=True)
        assert right == (answer == scene.caption)
    assert len(set(exact)) == 2
