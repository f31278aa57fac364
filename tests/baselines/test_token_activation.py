"""Token Activation Map against its equations, written out token by token."""

import math
from typing import Any

import pytest
import torch
from captum_dexar.baselines import LayerTokenActivation
from captum_dexar.baselines.token_activation import (
    rank_gaussian_filter,
    token_activation,
)
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from captum_dexar.model.layers import find_layers
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, tiny_vlm

Grid = list[list[float]]


def literal_filter(grid: Grid) -> Grid:
    rows, columns = len(grid), len(grid[0])

    def mirrored(index: int, size: int) -> int:
        if index < 0:
            return -index
        return 2 * size - 2 - index if index >= size else index

    result = []
    for r in range(rows):
        line = []
        for c in range(columns):
            window = sorted(
                grid[mirrored(r + dr, rows)][mirrored(c + dc, columns)]
                for dr in (-1, 0, 1)
                for dc in (-1, 0, 1)
            )
            mean = sum(window) / 9
            deviation = math.sqrt(sum((v - mean) ** 2 for v in window) / 9)
            if mean == 0 or deviation == 0:
                line.append(window[4])
                continue
            cv = deviation / mean
            weights = [math.exp(-((k - 4) ** 2) / (2 * cv**2)) for k in range(9)]
            line.append(sum(w * v for w, v in zip(weights, window)) / sum(weights))
        result.append(line)
    return result


def literal_map(
    states: Any, head: Any, ids: list[int], position: int, target: int
) -> list[float]:
    """Of the token ``target`` that ``position`` predicts, before the filter."""

    def logit(place: int, token: int) -> float:
        value = sum(float(a) * float(b) for a, b in zip(states[place], head[token]))
        return max(0.0, value)

    image = [place for place, token in enumerate(ids) if token == IMAGE_TOKEN]
    text = [p for p in range(position + 1) if ids[p] != IMAGE_TOKEN]
    activation = [logit(place, target) for place in image]
    relevance = [0.0 if ids[j] == target else logit(j, target) for j in text]
    total = sum(relevance)
    relevance = [value / total for value in relevance]
    interference = [
        sum(r * logit(place, ids[j]) for r, j in zip(relevance, text))
        for place in image
    ]
    scale = sum(a * i for a, i in zip(activation, interference)) / sum(
        i * i for i in interference
    )
    return [max(0.0, a - scale * i) for a, i in zip(activation, interference)]


def what_image_tokens_say(model: Any, inputs: dict[str, Any]) -> list[int]:
    """Tokens whose activation is not zero everywhere."""
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    places = (inputs["input_ids"][0] == IMAGE_TOKEN).nonzero()[:3, 0]
    return logits[places].argmax(-1).tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_equations(seed: int) -> None:
    model: Any = tiny_vlm("llava", seed)
    inputs = prompt_inputs(seed)
    said = what_image_tokens_say(model, inputs)
    # The second target stands in the prompt already.
    inputs["input_ids"][0, 2] = said[1]
    targets = torch.tensor([said])
    steps = DecodingSteps(Prompt(model, inputs), targets)
    ours = LayerTokenActivation(model).attribute_steps(steps).token_attr[0]
    with torch.no_grad():
        whole = steps.full_pass().inputs
        # transformers gives the last layer's states normed already.
        states = model(**whole, output_hidden_states=True).hidden_states[-1][0]
    head, ids = model.lm_head.weight.detach(), whole["input_ids"][0].tolist()
    first = inputs["input_ids"].shape[1] - 1
    for step in range(len(said)):
        flat = literal_map(
            states.double(), head.double(), ids, first + step, int(targets[0, step])
        )
        grid = [flat[4 * r : 4 * r + 4] for r in range(4)]
        expected = torch.tensor(literal_filter(grid), dtype=torch.float64)
        assert relative_error(ours[step].view(4, 4), expected) <= 1e-5


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (2, 2)])
def test_filter_equals_its_definition(shape: tuple[int, int]) -> None:
    grid = torch.rand(shape, generator=torch.Generator().manual_seed(0)) ** 4
    grid[0, 0] = 0
    expected = torch.tensor(literal_filter(grid.tolist()))
    torch.testing.assert_close(rank_gaussian_filter(grid), expected)


def test_filter_of_even_windows_is_their_value() -> None:
    assert torch.equal(rank_gaussian_filter(torch.zeros(3, 3)), torch.zeros(3, 3))
    torch.testing.assert_close(
        rank_gaussian_filter(torch.full((1, 5), 2.0)), torch.full((1, 5), 2.0)
    )


def test_without_relevant_text_nothing_is_taken_off() -> None:
    states = torch.rand(6, 8)
    target = torch.rand(8)
    activation = token_activation(
        states, -torch.rand(3, 8), torch.rand(3, 8), target, torch.zeros(3).bool()
    )
    torch.testing.assert_close(activation, states @ target)


def test_one_layer_is_read() -> None:
    model = tiny_vlm("llava")
    layers = find_layers(model)
    assert LayerTokenActivation(model).layer == [layers[-1]]
    assert LayerTokenActivation(model, layers[0]).layer_indices == [0]
    with pytest.raises(ValueError, match="one layer, got 2"):
        LayerTokenActivation(model, layers[:2])
