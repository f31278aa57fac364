"""The candidates, against the package and against cases worked out by hand."""

from functools import cache
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import read_prompt
from captum_dexar.shapes import load_vlm, make_scene
from tests.extension_study.candidates import Candidate, CANDIDATES, PAPER, scored
from tests.extension_study.eager_readings import eager_readings, Readings, TEMPLATE


def _input() -> ImagePromptInput:
    model, processor = load_vlm()
    image = make_scene(20_003, num_objects=2).image
    return ImagePromptInput(image, "Describe the image.", processor, model)


@cache
def _explained() -> tuple[DecodingSteps, Readings, LayerDexAR]:
    model, processor = load_vlm()
    scene = make_scene(20_003, num_objects=2)
    ids = processor.tokenizer(
        scene.caption, add_special_tokens=False, return_tensors="pt"
    )["input_ids"]
    steps = DecodingSteps(read_prompt(_input(), model, processor), ids)
    template_ids = processor.tokenizer(TEMPLATE, add_special_tokens=False)["input_ids"]
    return steps, eager_readings(steps, template_ids), LayerDexAR(model)


@pytest.mark.parametrize(
    ("power", "candidate"),
    [(0.0, PAPER), (0.5, CANDIDATES[1]), (0.75, CANDIDATES[2]), (1.0, CANDIDATES[3])],
)
def test_powers_are_the_packages(power: float, candidate: Candidate) -> None:
    steps, readings, method = _explained()
    expected = method.attribute_steps(steps, attention_power=power)
    scores = scored(candidate, readings)
    largest = float(expected.token_attr.max())
    torch.testing.assert_close(
        scores.maps[None].float(), expected.token_attr, atol=1e-5 * largest, rtol=1e-4
    )
    assert expected.token_weights is not None
    torch.testing.assert_close(
        scores.weights[None].float(), expected.token_weights, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        readings.log_probs[None].float(), expected.token_log_probs
    )


def test_rivals_are_contrasts_with_what_the_model_would_say_next() -> None:
    steps, readings, method = _explained()
    model: Any = steps.prompt.model
    *_, inputs = steps.prefixes()
    with torch.no_grad():
        logits = model(**inputs).logits[0, -steps.num_steps :]
    chosen = steps.target_ids[0][:, None]
    rivals = logits.scatter(1, chosen, -torch.inf).topk(2, 1).indices
    for rank in range(2):
        against = VLMAttribution(method, load_vlm()[1]).attribute(
            _input(),
            steps.target_ids[0],
            contrast=rivals[:, rank],
            attention_power=0.75,
        )
        alone = Candidate("", lambda one: [one.attention**0.75 * one.against[rank]])
        torch.testing.assert_close(
            scored(alone, readings).maps.float(),
            against.token_attr,
            atol=1e-5 * float(against.token_attr.max()),
            rtol=1e-4,
        )


def test_the_last_layers_reading_is_the_models() -> None:
    """Above the last layer there is nothing to go through."""
    _, readings, _ = _explained()
    torch.testing.assert_close(
        readings.final[-1], readings.against[0, -1], atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(readings.final[0], readings.against[0, 0], atol=1e-2)


def test_the_last_layer_holds_the_models_probability() -> None:
    _, readings, _ = _explained()
    torch.testing.assert_close(
        readings.probabilities[-1], readings.log_probs.exp(), atol=1e-6, rtol=1e-5
    )
    assert not torch.allclose(readings.probabilities[0], readings.log_probs.exp())


def test_the_template_is_the_prompts_first_token_and_its_roles() -> None:
    steps, readings, _ = _explained()
    # <s> USER : ... ASSISTANT :
    length = steps.prompt.length
    (places,) = readings.is_template.nonzero(as_tuple=True)
    assert places.tolist() == [0, 1, 2, length - 2, length - 1]
    assert int(readings.is_image.sum()) == 144
    assert not (readings.is_image & readings.is_template).any()


def _by_hand() -> Readings:
    """Two layers, one step, two heads; keys: first token, image, image, text."""
    attention = torch.tensor(
        [[[[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]]]] * 2, dtype=torch.float64
    )
    gradients = torch.tensor(
        [
            [[[8.0, 4.0, 2.0, 1.0], [9.0, 1.0, 5.0, 9.0]]],
            [[[0.0, 2.0, -1.0, 1.0], [0.0, 6.0, 0.0, 0.0]]],
        ],
        dtype=torch.float64,
    )
    return Readings(
        attention=attention,
        gradients=gradients,
        contrasted=gradients.clone().mul(torch.tensor([1.0, 0.5, 1.0, 1.0])),
        against=torch.stack([gradients, gradients.flip(-1), gradients, gradients]),
        final=gradients.flip(-1),
        probabilities=torch.tensor([[0.5], [0.25]], dtype=torch.float64),
        is_image=torch.tensor([False, True, True, False]),
        is_template=torch.tensor([True, False, False, False]),
        log_probs=torch.zeros(1, dtype=torch.float64),
    )


# 0.25 ** 0.75
_Q = 0.25**0.75


@pytest.mark.parametrize(
    ("candidate", "maps", "weight", "share"),
    [
        # p = 1. Layer 0: head 0 has image 1, text 2; head 1 has 1, 0. Layer 1: head 0
        # has 0.5, 0.25; head 1 has 6, 0. Excesses: 0, 1, 0.25, 6.
        (3, [1 + 0.25 * 0.5 + 36, 0.0], 4.0, 7.25 / 10.75),
        # Layer 0 times 1/2, layer 1 times 1/4; heads 0: 2q, text 4q; 1/2 q, 1/4 q.
        (
            4,
            [0.25 + (0.25 * _Q) * (0.5 * _Q) + 1.5**2, 0.0],
            1.5 - 4 * _Q,
            (0.5 + 0.25 * _Q + 1.5) / (6 * _Q + 0.5 + 0.75 * _Q + 1.5),
        ),
        # Layer 1 alone.
        (5, [2 * _Q**2 + 36, 0.0], 6 - _Q, (_Q + 6) / (3 * _Q + 6)),
        # Without the first token head 0 of layer 0 counts: image 4q, text 1q.
        (
            6,
            [3 * _Q * 4 * _Q + 1 + 2 * _Q**2 + 36, 3 * _Q * 2 * _Q],
            6 - _Q,
            (3 * _Q + 1 + _Q + 6) / (5 * _Q + 1 + 3 * _Q + 6),
        ),
        # The largest values are 8q in layer 0 (8 * 0.3536 > 1) and 6 in layer 1.
        (
            7,
            [
                (0.5 / (8 * _Q)) ** 2 + (0.25 * _Q / 6) * (0.25 * 2 * _Q / 6) + 0.25**2,
                0.0,
            ],
            0.0,
            (0.5 / (8 * _Q) + 0.25 * _Q / 6 + 0.25)
            / (0.25 + 0.5 + 0.5 / (8 * _Q) + 0.25 * 3 * _Q / 6 + 0.25),
        ),
        # The first image key has half the gradient: layer 1 head 0 has no excess.
        (8, [0.25 + 9, 0.0], 3 - 8 * _Q, 3.5 / (10 * _Q + 0.5 + 2 * _Q + 3)),
        # As 2; and with the keys in reverse order, where head 1 of layer 0 has 5.
        (
            9,
            [1 + 2 * _Q**2 + 36 + 25, 2 * _Q**2],
            (6 - 8 * _Q + 5 - 8 * _Q) / 2,
            ((7 + _Q) / (7 + 15 * _Q) + (5 + _Q) / (5 + 15 * _Q)) / 2,
        ),
    ],
)
def test_by_hand(
    candidate: int, maps: list[float], weight: float, share: float
) -> None:
    scores = scored(CANDIDATES[candidate], _by_hand())
    assert scores.maps[0].tolist() == pytest.approx(maps)
    assert float(scores.weights) == pytest.approx(max(weight, 0.0))
    assert float(scores.shares) == pytest.approx(share)


def test_nothing_read_is_a_share_of_zero() -> None:
    readings = _by_hand()
    empty = Readings(**{**vars(readings), "gradients": -readings.gradients.abs()})
    scores = scored(CANDIDATES[1], empty)
    assert scores.shares.tolist() == [0.0] and not scores.maps.any()
