"""Packed turns have the loss that each would have alone."""

import pytest
import torch
from captum_dexar.shapes import make_scene
from captum_dexar.shapes.model import build_model
from captum_dexar.shapes.packing import answer_loss, pack, Turn
from captum_dexar.shapes.recipe import pixel_values
from transformers import LlavaForConditionalGeneration

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
        return build_model().eval()


def _separate(model: LlavaForConditionalGeneration) -> tuple[torch.Tensor, int]:
    """Summed loss and tokens of the turns, each by the model's own forward."""
    total, tokens = torch.zeros(()), 0
    for scene, turns in zip(SCENES, TURNS):
        for turn in turns:
            ids = pack([[turn]]).input_ids
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
    packed = pack(TURNS)
    loss, _ = answer_loss(model, pixel_values(SCENES), packed)
    assert len(packed.answer_ids) == tokens
    torch.testing.assert_close(loss, total / tokens, rtol=1e-5, atol=1e-6)


def test_packed_gradient_is_the_gradient_of_separate_turns(
    model: LlavaForConditionalGeneration,
) -> None:
    total, tokens = _separate(model)
    loss, _ = answer_loss(model, pixel_values(SCENES), pack(TURNS))
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
    losses = []
    for first in ("red", "a large blue star"):
        packed = pack([[Turn("what is on the left ?", first), last]])
        answered = len(last.answer.split()) + 1
        loss, _ = answer_loss(
            model,
            pixel_values(scene),
            type(packed)(
                packed.input_ids,
                packed.position_ids,
                packed.attention_mask,
                packed.answer_rows[-answered:],
                packed.answer_ids[-answered:],
            ),
        )
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
