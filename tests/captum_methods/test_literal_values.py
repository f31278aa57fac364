"""Gradients of pixels and ablations of image tokens, literally, in all ways."""

from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation, Saliency
from captum_dexar import VLMAttribution, VLMForward
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from tests.families.cases import CASES
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
]
TARGETS = [40, 7]
NAMES = (
    "llava_next",
    "internvl",
    "qwen2_5_vl",
    "pixtral",
    "idefics3",
    "gemma3",
    "paligemma",
    "mllama",
)
SOME = [case for case in CASES if case.name in NAMES]
# A forward pass per image token and way takes longer than a gradient.
FEW = [case for case in SOME if case.name in ("llava_next", "qwen2_5_vl", "mllama")]


class Literal:
    """The model on every prefix of an answer, one by one."""

    def __init__(self, model: Any, inputs: dict[str, Any], answer: list[int]) -> None:
        prompt = Prompt(model, inputs)
        self.model, self.answer, self.layout = model, answer, prompt.layout
        self.prefixes = list(DecodingSteps(prompt, torch.tensor([answer])).prefixes())
        self.pixel_input = prompt.adapter.pixel_input
        self.pixels: Tensor = prompt.inputs[self.pixel_input]
        self.token = prompt.adapter.token_of_pixel_input(
            prompt.inputs, prompt.layout, prompt.config
        ).expand(self.pixels.shape)

    def logits(self, pixels: Tensor, step: int) -> Tensor:
        inputs = {**self.prefixes[step], self.pixel_input: pixels}
        return self.model(**inputs, use_cache=False).logits[0, -1].float()

    def gradients(self) -> Tensor:
        """Of each token's logit, summed over the pixels of each image token."""
        rows = []
        for step, target in enumerate(self.answer):
            pixels = self.pixels.detach().clone().requires_grad_()
            score = self.logits(pixels, step)[target]
            (gradient,) = torch.autograd.grad(score, pixels)
            rows.append(
                [
                    gradient[self.token == index].double().sum()
                    for index in self.layout.placed
                ]
            )
        return torch.tensor(rows)

    def ablations(self, columns: list[int]) -> Tensor:
        """The drop of each log-probability if a token's pixels are zero."""
        with torch.no_grad():
            rows = []
            for step, target in enumerate(self.answer):
                whole = self.logits(self.pixels, step).log_softmax(-1)[target]
                row = []
                for index in self.layout.placed[columns]:
                    pixels = self.pixels.masked_fill(self.token == index, 0.0)
                    without = self.logits(pixels, step).log_softmax(-1)[target]
                    row.append(float(whole - without))
                rows.append(row)
        return torch.tensor(rows)


def in_every_way(
    method: Any, model: Any, inputs: dict[str, Any]
) -> list[tuple[list[int], Tensor]]:
    """An answer and its attributions: given, in a list, generated, streamed."""
    explain: Any = VLMAttribution(method(VLMForward(model)))
    arguments = {"abs": False} if method is Saliency else {}
    given = explain.attribute(inputs, target=TARGETS, **arguments)
    listed = explain.attribute(
        [inputs, inputs], target=[TARGETS[:1], TARGETS], **arguments
    )
    gen_args = {"max_new_tokens": 2, "do_sample": False, "min_new_tokens": 2}
    generated = explain.attribute(inputs, gen_args=gen_args, **arguments)
    streamed = list(explain.stream(inputs, gen_args, **arguments))
    return [
        (TARGETS, given.token_attr),
        (TARGETS[:1], listed[0].token_attr),
        (TARGETS, listed[1].token_attr),
        (generated.target_ids.tolist(), generated.token_attr),
        (
            [int(one.target_ids) for one in streamed],
            torch.cat([one.token_attr for one in streamed]),
        ),
    ]


def test_all_of_them_are_cases() -> None:
    assert {case.name for case in SOME} == set(NAMES)


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_gradients(case: FamilyCase) -> None:
    model, inputs = case.model(3, "sdpa"), dict(case.inputs(3, 3))
    expected: dict[tuple[int, ...], Tensor] = {}
    for answer, attribution in in_every_way(Saliency, model, inputs):
        key = tuple(answer)
        if key not in expected:
            expected[key] = Literal(model, inputs, answer).gradients()
        assert relative_error(attribution, expected[key]) <= 10 * case.tolerance


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_ablations(case: FamilyCase) -> None:
    """Of some image tokens, the first and last among them, whose pixels become zero."""
    model, inputs = case.model(3, "sdpa"), dict(case.inputs(3, 3))
    expected: dict[tuple[int, ...], Tensor] = {}
    for answer, attribution in in_every_way(FeatureAblation, model, inputs):
        key = tuple(answer)
        columns = [0, attribution.shape[1] // 2, attribution.shape[1] - 1]
        if key not in expected:
            expected[key] = Literal(model, inputs, answer).ablations(columns)
        error = (attribution[:, columns] - expected[key]).abs().max()
        assert error <= 1e-3 * attribution.abs().max()
