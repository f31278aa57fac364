"""Token Activation Map against its equations, written out token by token."""

import math
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, VLMAttribution
from captum_dexar.baselines import LayerTokenActivation
from captum_dexar.baselines.token_activation import (
    rank_gaussian_filter,
    token_activation,
)
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt, read_prompt
from captum_dexar.model.layers import find_layers
from captum_dexar.shapes import load_vlm, make_scene
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
    states: Any,
    head: Any,
    ids: list[int],
    asked: list[int],
    length: int,
    position: int,
    target: int,
) -> list[float]:
    """Of the token ``target`` that ``position`` predicts, before the filter.

    ``asked`` are the places of the prompt's tokens that count, ``length`` is that of
    the prompt.
    """

    def logit(place: int, token: int) -> float:
        value = sum(float(a) * float(b) for a, b in zip(states[place], head[token]))
        return max(0.0, value)

    image = [place for place, token in enumerate(ids) if token == IMAGE_TOKEN]
    # Each earlier token, and the place where its relevance is read.
    earlier = [(ids[place], place) for place in asked]
    earlier += [(ids[place], place - 1) for place in range(length, position + 1)]
    activation = [logit(place, target) for place in image]
    relevance = [
        0.0 if token == target else logit(place, target) for token, place in earlier
    ]
    total = sum(relevance)
    if total == 0:
        return activation
    relevance = [value / total for value in relevance]
    interference = [
        sum(r * logit(place, token) for r, (token, _) in zip(relevance, earlier))
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


@pytest.mark.parametrize("context", ["question", "all"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_equations(seed: int, context: str) -> None:
    model: Any = tiny_vlm("llava", seed)
    inputs = prompt_inputs(seed, before=5, after=6)
    said = what_image_tokens_say(model, inputs)
    # The second target stands in the prompt already, the third in the answer as well.
    inputs["input_ids"][0, -2] = said[1]
    # Special tokens are no part of a question.
    inputs["input_ids"][0, -4] = model.config.text_config.eos_token_id
    said.append(said[2])
    targets = torch.tensor([said])
    steps = DecodingSteps(Prompt(model, inputs), targets)
    method = LayerTokenActivation(model, context=context)
    ours = method.attribute_steps(steps).token_attr[0]
    with torch.no_grad():
        whole = steps.full_pass().inputs
        # transformers gives the last layer's states normed already.
        states = model(**whole, output_hidden_states=True).hidden_states[-1][0]
    head, ids = model.lm_head.weight.detach(), whole["input_ids"][0].tolist()
    length = inputs["input_ids"].shape[1]
    # The image's 16 tokens stand from place 5 to 20.
    asked = [21, 22, 24, 25, 26]
    if context == "all":
        asked = [*range(5), *range(21, length)]
    for step in range(len(said)):
        flat = literal_map(
            states.double(),
            head.double(),
            ids,
            asked,
            length,
            length - 1 + step,
            int(targets[0, step]),
        )
        grid = [flat[4 * r : 4 * r + 4] for r in range(4)]
        expected = torch.tensor(literal_filter(grid), dtype=torch.float64)
        assert relative_error(ours[step].view(4, 4), expected) <= 1e-5


SCENE_QUESTION = "What shape is the red object?"
PART = {"type": "text", "text": SCENE_QUESTION}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, PART]},
    {"role": "assistant", "content": [{"type": "text", "text": "a red circle ."}]},
    {"role": "user", "content": [{"type": "text", "text": "Describe the image."}]},
]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (SCENE_QUESTION, "what shape is the red object ?"),
        (
            TURNS,
            "what shape is the red object ? a red circle . describe the image .",
        ),
        # A word that the tokenizer does not know, and one of the template.
        ("Is user here?", "is <unk> user ?"),
        # Not known from the template, so everything after the image.
        (f"USER: <image>\n{SCENE_QUESTION} ASSISTANT:", None),
    ],
    ids=["question", "messages", "unknown word", "complete"],
)
def test_the_question_is_found_in_the_prompt(prompt: Any, expected: Any) -> None:
    model, processor = load_vlm()
    if expected is None:
        expected = "what shape is the red object ? assistant :"
    elif "<unk>" in expected:
        expected = "is user <unk> ?"
    inp = ImagePromptInput(make_scene(0).image, prompt, processor)
    read = read_prompt(inp, model, processor)
    method = LayerTokenActivation(model)
    places = method._prompt_tokens(read, 0)
    assert processor.decode(read.ids[0, places]) == expected
    everything = LayerTokenActivation(model, context="all")._prompt_tokens(read, 0)
    is_text = read.ids[0] != model.config.image_token_id
    assert everything.tolist() == is_text.nonzero()[:, 0].tolist()


def test_in_a_batch_each_prompt_has_its_own_question() -> None:
    model, processor = load_vlm()
    questions = ["Describe the image.", SCENE_QUESTION]
    inps = [
        ImagePromptInput(make_scene(seed).image, question, processor)
        for seed, question in enumerate(questions)
    ]
    method = VLMAttribution(LayerTokenActivation(model), processor)
    targets = ["a red circle .", "a blue square ."]
    together = method.attribute(inps, targets)
    for inp, target, batched in zip(inps, targets, together):
        alone = method.attribute(inp, target)
        assert relative_error(batched.token_attr, alone.token_attr) <= 1e-5
    other = VLMAttribution(LayerTokenActivation(model, context="all"), processor)
    difference = other.attribute(inps[0], targets[0]).token_attr
    assert relative_error(together[0].token_attr, difference) > 1e-3


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
    with pytest.raises(ValueError, match="one of 'question', 'all', got 'text'"):
        LayerTokenActivation(model, context="text")
