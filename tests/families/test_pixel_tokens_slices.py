"""Which image token a pixel stands for: windows, line breaks, several packed images."""

from typing import Any

import pytest
import torch
from captum_dexar.families import adapter_for_config
from tests.families.cases import CASES, emu3, granite4_vision
from tests.families.test_pixel_tokens import (
    changed,
    check,
    joined,
    PERTURBATION,
    Seen,
    silenced,
    some_elements,
)
from tests.helpers.slice_families import FAMILIES

# Cells that the convolutions of Emu3 reach beyond a cell.
EMU3_REACH = 4


@pytest.mark.parametrize(
    "name", ["minicpmv4_6", "minicpmv4_7", "minicpm_ocr", "molmo2"]
)
def test_two_images_whose_patches_are_packed(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = case.model(0, "sdpa")
    both = joined(case.inputs(0, 4), case.inputs(1, 4))
    adapter = adapter_for_config(model.config)
    seen = check(model, adapter.joined(both, 2))
    assert seen.layout.num_images == 2


def test_a_window_of_granite4_vision_with_one_token() -> None:
    model = granite4_vision.build(1, rate="1/2")
    seen = check(model, granite4_vision.inputs(1, 4))
    assert (seen.token == -1).any(), "no padding of the canvas"


def test_a_window_of_granite4_vision_with_several_tokens() -> None:
    """A pixel changes its token and others of the same window of 2 x 2 tokens."""
    seen = Seen(
        silenced(granite4_vision.build(1, rate="2/4")), granite4_vision.inputs(1, 4)
    )
    before, _ = seen(seen.pixels)
    placed = set(seen.layout.placed.tolist())
    place = {
        int(token): (number, *divmod(index, view.grid[1]))
        for number, view in enumerate(seen.layout.views)
        for index, token in enumerate(view.tokens)
    }
    sizes = []
    for element, token in some_elements(seen.token):
        pixels = seen.pixels.clone()
        pixels.view(-1)[element] += PERTURBATION
        tokens = set(changed(seen(pixels)[0], before)) & placed
        # Padding of a tile may be in a window with the image.
        assert token in tokens or token == -1
        places = torch.tensor([place[one] for one in tokens]).view(-1, 3)
        spread = places.amax(0) - places.amin(0) if len(places) else torch.zeros(3)
        assert (spread <= torch.tensor([0, 1, 1])).all()
        sizes.append(len(tokens))
    assert max(sizes) == 4


def test_padding_of_emu3_belongs_to_no_token() -> None:
    """Images of a prompt are padded to the largest, on the right and at the bottom."""
    model: Any = FAMILIES["emu3"].model()
    sizes = torch.tensor([[3 * emu3.SIDE, 4 * emu3.SIDE], [5 * emu3.SIDE, emu3.SIDE]])
    pixels = torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    inputs = {"pixel_values": pixels, "image_sizes": sizes}
    adapter = adapter_for_config(model.config)
    layout = adapter.layout(
        inputs, 3 * 5 + 5 * 2, image_sizes=None, config=model.config
    )
    token = adapter.token_of_pixel_input(inputs, layout, model.config)
    assert token.shape == (2, 1, 40, 32)
    assert (token[0, 0, 24:] == -1).all() and (token[1, 0, :, 8:] == -1).all()
    assert set(token.unique().tolist()) == {-1, *layout.placed.tolist()}

    def features(values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            made = model.model.vqmodel.encode(values, sizes).last_hidden_state
        features: torch.Tensor = made[:, 0]
        return features

    before = features(pixels)
    for view in layout.views:
        for cell in (0, view.num_tokens // 2, view.num_tokens - 1):
            wanted = token == view.tokens[cell]
            after = features(pixels.masked_fill(wanted, 9.0))
            difference = (after - before).abs().amax(1)
            image, row, column = (difference > 1e-6).nonzero().unbind(1)
            assert (image == view.image).all()
            row = row - cell // view.grid[1]
            column = column - cell % view.grid[1]
            assert ((row == 0) & (column == 0)).any()
            assert int(torch.stack([row, column]).abs().max()) <= EMU3_REACH
