"""Models whose encoder reads the image alone: what is special about them."""

from functools import partial
from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases import image_encoders
from tests.helpers.at_softmax import at_softmax, exact
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from torch import Tensor

CASES = image_encoders.CASES
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LONG = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}


def prefixes(prompt: Prompt, answer: Tensor) -> list[dict[str, Any]]:
    return [
        {
            **prompt.inputs,
            "decoder_input_ids": torch.cat([prompt.ids, answer[None, :step]], dim=1),
        }
        for step in range(len(answer))
    ]


@every_case
def test_generated_streamed_and_given_equal_autograd_at_the_softmax(
    case: FamilyCase,
) -> None:
    model, inputs = case.model(0, "sdpa"), case.inputs(0, 0)
    method = VLMAttribution(LayerDexAR(model))
    generated = method.attribute(inputs, gen_args=LONG)
    given = method.attribute(inputs, target=generated.target_ids)
    streamed = list(method.stream(inputs, gen_args=LONG))
    prompt, answer = Prompt(model, inputs), generated.target_ids
    reference: Any = exact(model)
    keys = prompt.image_keys[0]
    token_attr, weights, heads = at_softmax(
        reference,
        find_decoder(reference).layers,
        prefixes(prompt, answer),
        answer,
        (None, lambda num_keys: keys),
    )
    scale = float(heads.max())
    assert scale > 0
    placed = prompt.layout.placed
    for result in (generated, given):
        error = relative_error(result.token_attr, token_attr[:, placed])
        assert error <= case.tolerance
        torch.testing.assert_close(
            result.token_weights.double(), weights, rtol=0, atol=case.tolerance * scale
        )
        assert relative_error(result.head_weights, heads) <= case.tolerance
    every = torch.cat([one.token_attr for one in streamed])
    assert relative_error(every, token_attr[:, placed]) <= case.tolerance


@every_case
def test_a_list_equals_single_inputs(case: FamilyCase) -> None:
    model = case.model(0, "sdpa")
    method = VLMAttribution(LayerDexAR(model))
    inputs = [case.inputs(seed, 0) for seed in (0, 1, 2)]
    ways: list[dict[str, Any]] = [
        {"gen_args": LONG},
        {"target": [[40, 41], [42], [43, 44, 45]]},
    ]
    for more in ways:
        together = method.attribute(inputs, **more)
        for index, (one, result) in enumerate(zip(inputs, together)):
            only: dict[str, Any] = dict(more)
            if "target" in more:
                only["target"] = more["target"][index]
            single = method.attribute(one, **only)
            assert relative_error(result.token_attr, single.token_attr) <= 1e-5


@every_case
def test_captums_arguments(case: FamilyCase) -> None:
    """Ids are the decoder's, and may be left out."""
    model, inputs = case.model(0, "sdpa"), case.inputs(0, 0)
    prompt = Prompt(model, inputs)
    others = dict(inputs)
    pixels = others.pop(prompt.adapter.pixel_input)
    ids = others.pop("decoder_input_ids", None)
    with torch.no_grad():
        logits = VLMForward(model)(pixels, ids, others)
        expected = model(**prompt.inputs).logits[:, -1]
    torch.testing.assert_close(logits, expected)
    target = expected.argmax(-1)
    maps = LayerDexAR(model).attribute(
        pixels, additional_forward_args=(ids, others), normalize=False
    )
    (view,) = prompt.layout.views
    given = VLMAttribution(LayerDexAR(model)).attribute(inputs, target=target)
    torch.testing.assert_close(
        maps[0, 0].flatten(), given.token_attr[0].float().view(-1), rtol=1e-4, atol=1e-7
    )
    assert maps.shape[2:] == view.grid


def silenced(model: Any, names: tuple[str, ...]) -> Any:
    """No token of the encoder reads another, in place."""
    found = [m for n, m in model.encoder.named_modules() if n.endswith(names)]
    assert found
    for module in found:
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize(
    "build, size",
    [
        (image_encoders.build_trocr, (16, 16)),
        (partial(image_encoders.build_trocr, encoder="deit"), (16, 16)),
        (image_encoders.build_donut, image_encoders.DONUT_SIZE),
    ],
)
def test_pixels_change_their_own_token(build: Any, size: tuple[int, int]) -> None:
    model = silenced(build(1, "eager"), ("o_proj", "output.dense"))
    inputs = image_encoders.pixels(0, 0, *size)
    prompt = Prompt(model, inputs)
    token = prompt.adapter.token_of_pixel_input(inputs, prompt.layout, model.config)
    assert torch.equal(token.unique(), prompt.layout.placed)
    with torch.no_grad():
        before = model.encoder(inputs["pixel_values"])[0][0]
        assert len(before) == prompt.layout.num_tokens
        for y, x in ((0, 0), (3, 9), (9, 3), (size[0] - 1, size[1] - 1)):
            changed = inputs["pixel_values"].clone()
            changed[0, 1, y, x] += 5.0
            after = model.encoder(changed)[0][0]
            is_other = (after - before).abs().amax(-1) > 1e-6 * before.abs().max()
            assert is_other.nonzero()[:, 0].tolist() == [int(token[0, 0, y, x])]


def test_a_formula_token_sees_its_cell_and_three_patches_ahead_of_it() -> None:
    """Its 7 x 7 patches begin three above and to the left of the 4 x 4 of its cell."""
    model: Any = image_encoders.build_pp_formulanet(0, "eager")
    tower = model.model.encoder
    side, patch = image_encoders.FORMULA_SIDE, 4
    inputs = image_encoders.pixels(0, 0, side, side)
    prompt = Prompt(model, inputs)
    token = prompt.adapter.token_of_pixel_input(inputs, prompt.layout, model.config)
    grid = prompt.layout.views[0].grid
    assert grid == (3, 3)

    def features(pixels: Tensor) -> Tensor:
        # The layers and the neck mix patches, too.
        hidden = tower.patch_embed(pixels).permute(0, 3, 1, 2)
        made: Tensor = tower.multi_modal_projector(hidden)[0]
        return made

    with torch.no_grad():
        before = features(inputs["pixel_values"])
        for row in range(side // patch):
            pixels = inputs["pixel_values"].clone()
            y, x = row * patch + 1, side // 2
            pixels[0, :, y, x] += 5.0
            seeing = (features(pixels) - before).abs().amax(-1) > 1e-6
            rows = seeing.view(grid).any(1).nonzero()[:, 0].tolist()
            assert rows == [cell for cell in range(3) if abs(4 * cell - row) <= 3]
            own = int(token[0, 0, y, x])
            assert own // grid[1] == row // 4 and own // grid[1] in rows
            assert own % grid[1] == x // patch // 4
