"""BLIP and GIT: exact at the softmax, places end to end, prompts as generate has
them."""

from typing import Any

import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.decoding import DecodingSteps
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases import captioners
from tests.helpers.at_softmax import at_softmax, exact
from tests.helpers.blocks import block_report, check, dark_image, random_blocks, SHAPES
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.plain_prompt_processors import tokenizer_of
from torch import Tensor
from transformers import BlipProcessor, GitProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

CASES = captioners.CASES
SIDE, PATCH = captioners.SIDE, captioners.PATCH
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def model_of(case: FamilyCase) -> Any:
    model: Any = case.model(0, "eager")
    # An answer of this length, whatever its tokens: BLIP sets the end itself.
    model.config.get_text_config().sep_token_id = None
    return model


def gen_args(case: FamilyCase, num_tokens: int) -> dict[str, Any]:
    ending = {} if case.name == "blip" else {"eos_token_id": -1}
    return {"max_new_tokens": num_tokens, "do_sample": False, **ending}


def prefixes(prompt: Prompt, answer: Tensor) -> list[dict[str, Any]]:
    return [
        {
            "pixel_values": prompt.inputs["pixel_values"],
            "input_ids": torch.cat([prompt.ids, answer[None, :step]], dim=1),
        }
        for step in range(len(answer))
    ]


@every_case
def test_generated_streamed_and_given_equal_autograd_at_the_softmax(
    case: FamilyCase,
) -> None:
    model, inputs = model_of(case), case.inputs(0, 3)
    before = {name: value.clone() for name, value in inputs.items()}
    method = VLMAttribution(LayerDexAR(model))
    generated = method.attribute(inputs, gen_args=gen_args(case, 12))
    assert generated.target_ids.shape == (12,)
    given = method.attribute(inputs, target=generated.target_ids)
    streamed = list(method.stream(inputs, gen_args=gen_args(case, 12)))
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)
    prompt, answer = Prompt(model, inputs), generated.target_ids
    reference: Any = exact(model)
    keys = prompt.image_keys[0]
    calls: Any = [lambda num_keys: keys]
    token_attr, weights, heads = at_softmax(
        reference,
        find_decoder(reference).layers,
        prefixes(prompt, answer),
        answer,
        [None, *calls] if case.name == "blip" else calls,
    )
    scale = float(heads.max())
    assert scale > 0
    placed = prompt.layout.placed
    assert prompt.layout.placeless.tolist() == [0]
    for result in (generated, given):
        error = relative_error(result.token_attr, token_attr[:, placed])
        assert error <= case.tolerance
        assert relative_error(result.head_weights, heads) <= case.tolerance
        torch.testing.assert_close(
            result.token_weights.double(), weights, rtol=0, atol=case.tolerance * scale
        )
    every = torch.cat([one.token_attr for one in streamed])
    assert relative_error(every, token_attr[:, placed]) <= case.tolerance


@every_case
def test_a_list_equals_single_inputs(case: FamilyCase) -> None:
    method = VLMAttribution(LayerDexAR(model_of(case)))
    inputs = [case.inputs(0, 2), case.inputs(1, 5)]
    together = method.attribute(inputs, gen_args=gen_args(case, 3))
    for one, result in zip(inputs, together):
        single = method.attribute(one, gen_args=gen_args(case, 3))
        assert torch.equal(result.target_ids, single.target_ids)
        assert relative_error(result.token_attr, single.token_attr) <= 1e-5


@every_case
def test_passes_predict_what_generate_says(case: FamilyCase) -> None:
    """Positions of passes count the image tokens that have no placeholder."""
    model, inputs = model_of(case), case.inputs(0, 3)
    result = VLMAttribution(LayerDexAR(model)).attribute(
        inputs, gen_args=gen_args(case, 4)
    )
    steps = DecodingSteps(Prompt(model, inputs), result.target_ids[None])
    log_probs = steps.full_pass().logits().log_softmax(-1)
    every = log_probs[0].gather(1, result.target_ids[:, None])[:, 0]
    torch.testing.assert_close(every, result.token_log_probs, rtol=1e-5, atol=1e-5)
    for step in range(4):
        assert float(steps.alone(step).log_probs[0, 0].detach()) == pytest.approx(
            float(every[step].detach()), abs=1e-5
        )
    others = dict(inputs)
    pixels, ids = others.pop("pixel_values"), others.pop("input_ids")
    first = VLMForward(model)(pixels, ids, others).log_softmax(-1)
    assert float(first[0, result.target_ids[0]].detach()) == pytest.approx(
        float(every[0].detach()), abs=1e-5
    )


@every_case
def test_pixels_change_their_own_token(case: FamilyCase) -> None:
    model = model_of(case)
    tower = model.vision_model if case.name == "blip" else model.git.image_encoder
    names = ("self_attn.projection", "self_attn.out_proj")
    silenced = [m for n, m in tower.named_modules() if n.endswith(names)]
    assert silenced
    for module in silenced:
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)
    inputs = case.inputs(0, 3)
    prompt = Prompt(model, inputs)
    token = prompt.adapter.token_of_pixel_input(inputs, prompt.layout, model.config)
    assert torch.equal(token.unique(), prompt.layout.placed)
    with torch.no_grad():
        before = tower(inputs["pixel_values"]).last_hidden_state[0]
        for y, x in ((0, 0), (3, 9), (9, 3), (SIDE - 1, SIDE - 1)):
            changed = inputs["pixel_values"].clone()
            changed[0, 1, y, x] += 5.0
            after = tower(changed).last_hidden_state[0]
            is_other = (after - before).abs().amax(-1) > 1e-6 * before.abs().max()
            assert is_other.nonzero()[:, 0].tolist() == [int(token[0, 0, y, x])]


def processor_of(case: FamilyCase) -> Any:
    tokenizer = tokenizer_of("<image>")
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    if case.name == "blip":
        size = {"height": SIDE, "width": SIDE}
        return BlipProcessor(BlipImageProcessorPil(size=size), tokenizer)
    crop = {"height": SIDE, "width": SIDE}
    return GitProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop), tokenizer
    )


def patches_behind_a_class_token(inputs: Any) -> Tensor:
    unfold = torch.nn.functional.unfold
    patches = unfold(inputs["pixel_values"], PATCH, stride=PATCH)[0].T
    return torch.cat([torch.zeros_like(patches[:1]), patches])


@every_case
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks(case: FamilyCase, shape: tuple[int, int]) -> None:
    model, processor = model_of(case), processor_of(case)
    inp = ImagePromptInput(dark_image(*shape), "a red", processor, model)
    report = block_report(
        inp, random_blocks(*shape, 10), patches_behind_a_class_token, PATCH
    )
    check(report)
    assert report.covering.any() and not report.changed.all()


@every_case
@pytest.mark.parametrize("question", ["", "a red circle"])
def test_every_kind_of_input(case: FamilyCase, question: str) -> None:
    model, processor = model_of(case), processor_of(case)
    image = dark_image(37, 61)
    method = VLMAttribution(LayerDexAR(model), processor)
    inp = ImagePromptInput(image, question, processor, model)
    expected = method.attribute(inp, gen_args=gen_args(case, 3))
    plain = ImageMaskInput(processor_fn=inp.processor_fn, image=image)
    made = dict(inp.to_model_input())
    kinds: list[Any] = [plain, made]
    if not question:
        kinds.append({"pixel_values": made["pixel_values"]})
    for given in kinds:
        result = method.attribute(given, gen_args=gen_args(case, 3))
        assert result.target_ids.tolist() == expected.target_ids.tolist()
        torch.testing.assert_close(result.token_attr, expected.token_attr)
        assert result.grid == expected.grid
