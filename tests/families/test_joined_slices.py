"""Several examples in one pass, where pixels are packed or counted through."""

from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from captum_dexar.families import adapter_for_config
from tests.families.cases import CASES
from tests.families.cases.unlimited_ocr import build, inputs
from tests.helpers.explained import relative_error
from tests.helpers.family_case import FamilyCase
from torch import Tensor

UNLIMITED = FamilyCase("unlimited_ocr", build, inputs)
JOINED = {case.name: case for case in (*CASES, UNLIMITED)}
NAMES = ("minicpmv4_6", "minicpmv4_7", "granite_docling", "molmo2", "unlimited_ocr")
every_family = pytest.mark.parametrize("name", NAMES)


def logits(forward: Any, pixels: Tensor, given: dict[str, Any], repeats: int) -> Tensor:
    others = dict(given)
    ids = others.pop("input_ids").expand(repeats, -1)
    others["attention_mask"] = torch.ones_like(given["input_ids"])
    others.pop("pixel_values")
    with torch.no_grad():
        out: Tensor = forward(pixels, ids, others)
    return out


@every_family
def test_repeated_inputs_give_what_each_gives_alone(name: str) -> None:
    """As Captum repeats pixels and ids, each with other pixels."""
    case = JOINED[name]
    forward = VLMForward(case.model(0, "sdpa"))
    given = case.inputs(0, 3)
    pixels = [given["pixel_values"], -given["pixel_values"]]
    is_flat = adapter_for_config(forward.model.config).flat_pixels
    both = torch.stack(pixels) if is_flat else torch.cat(pixels)
    together = logits(forward, both, given, 2)
    for row, one in enumerate(pixels):
        alone = logits(forward, one, given, 1)
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


@every_family
def test_several_points_of_a_path_in_one_pass(name: str) -> None:
    case = JOINED[name]
    model, given = case.model(0, "sdpa"), case.inputs(0, 3)
    if name == "unlimited_ocr":
        given.pop("pixel_values_local")
        given["num_local_patches"], given["patches_grid"] = [0], [[1, 1]]
        ids = given["input_ids"]
        given["input_ids"] = torch.cat([ids[:, :3], ids[:, 13:]], dim=1)
    results = []
    for batch in (1, 4):
        method = VLMAttribution(IntegratedGradients(VLMForward(model)))
        result = method.attribute(
            given, target=[20], n_steps=4, internal_batch_size=batch
        )
        results.append(result.token_attr)
    assert relative_error(*results) <= 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unlimited_ocr"])
def test_inputs_of_a_list_share_a_pass(name: str) -> None:
    case = JOINED[name]
    model = case.model(0, "sdpa")
    method = VLMAttribution(LayerDexAR(model))
    both = [case.inputs(0, 2), case.inputs(2, 5)]
    targets = [[40, 7], [12, 30]]
    together = method.attribute(both, target=targets)
    for one, target, result in zip(both, targets, together):
        alone = method.attribute(one, target=target)
        assert relative_error(result.token_attr, alone.token_attr) <= 1e-5
