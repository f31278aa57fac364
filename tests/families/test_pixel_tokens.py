"""Which image token an element of the model's pixels stands for: perturb it and see.

With the vision tower's attention silenced, an image token is a function of its own
patches alone: a pixel must change the token that it is said to stand for and no other,
and a pixel of which no token is said to see anything must change none.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from captum.attr import LayerActivation, Saliency
from captum_dexar.captum_methods.layer_tokens import image_token_of
from captum_dexar.captum_methods.request import StepRequest
from captum_dexar.decoding import DecodingSteps
from captum_dexar.families import adapter_for_config
from captum_dexar.families.geometry.grids import cells_of_pixels
from captum_dexar.inputs import Prompt
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.model.decoder import find_decoder
from tests.families.cases import (
    captioners,
    CASES as EVERY_CASE,
    cross_attention,
    idefics,
    idefics3,
    image_encoders,
    patch_grid,
    pixtral,
    tiled_canvas,
)
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs, roughen, tiny_vlm
from torch import nn, Tensor
from transformers import LlavaForConditionalGeneration

CASES = {case.name: case for case in EVERY_CASE}
# Their vision towers are convolutions that overlap, or tokens read windows of patches;
# see the tests of their own.
OVERLAPPING = (
    "florence2",
    "chameleon",
    "chameleon_swin",
    "emu3",
    "got_ocr2",
    "granite4_vision",
    "pp_chart2table",
    "unlimited_ocr",
)
# The image is in two inputs; pixels of one of them are refused.
TWO_INPUTS = ("deepseek_vl_hybrid", "step3p7")
# Their pixels are tested with their boxes, in test_boxes_joined_states.py.
JOINED_STATES = ("gemma3n", "inkling2", "inkling_mm_model")
# Their image tokens do not enter the text model's layers; see their own tests.
ENCODERS = tuple(
    case.name for kind in (image_encoders, captioners, idefics) for case in kind.CASES
)
# Image tokens of their encoders are those of test_t5gemma2.py and test_udop.py.
TEXT_ENCODERS = ("t5gemma2", "udop")
# Each image token is a query that reads the whole image: no pixel is its own. See
# test_queries.py.
QUERIES = tuple(case.name for case in EVERY_CASE if case.places is not None)
# These differ from others in the text model only.
SAME_VISION = (
    "bakllava",
    "bakllava_sliding",
    "qwen2_5_vl_sliding",
    "mistral3_sliding",
    "gemma4_shared_kv",
    "gemma4_k_equals_v",
    "gemma4_bidirectional",
    "mllama_cross_last",
)
ELSEWHERE = (
    *OVERLAPPING,
    *TWO_INPUTS,
    *JOINED_STATES,
    *SAME_VISION,
    *ENCODERS,
    *TEXT_ENCODERS,
    *QUERIES,
)
SILENCED = (
    r"(vis|image_tower).*"
    r"(out_proj|o_proj|o_proj\.linear|attn\.proj|projection_layer|pwconv2)$"
)
BLOCK = r"vis.*\.(layers|layer|blocks)\.0$"
WITHOUT_TOWER = ("fuyu", "gemma4_unified")
# Layers of their towers have more tokens than patches, or padding of their own.
MORE_TOKENS = ("mllama", "nemotron_h_omni")
NUM_TOKENS = 12
NUM_OUTSIDE = 4
PERTURBATION = 5.0


class Reached(Exception):
    """Raised to end a pass once what is wanted has been recorded."""


def silenced(model: Any) -> nn.Module:
    """The vision tower mixes no patches, in place."""
    names = [name for name, _ in model.named_modules() if re.search(SILENCED, name)]
    if hasattr(model.config, "vision_config"):
        for name in names:
            for parameter in model.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
        has_vision_tower = model.config.model_type not in WITHOUT_TOWER
        assert names or not has_vision_tower
    return model


class Seen:
    """Image tokens as they enter the text model, and a vision layer's tokens."""

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        self.model = model
        self.steps = DecodingSteps(Prompt(model, inputs), torch.tensor([[40]]))
        self.adapter = self.steps.prompt.adapter
        self.layout: ImageLayout = self.steps.prompt.layout
        blocks = [n for n, _ in model.named_modules() if re.search(BLOCK, n)]
        self.block = model.get_submodule(blocks[0]) if blocks else None
        self.name = self.adapter.pixel_input
        self.pixels: Tensor = self.steps.prompt.inputs[self.name]
        self.token = self.adapter.token_of_pixel_input(
            self.steps.prompt.inputs, self.layout, self.steps.prompt.config
        ).expand(self.pixels.shape)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(image tokens, size)``, and ``(tokens of the first block, size)``."""
        found: dict[str, Tensor] = {}

        def of_block(module: Any, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found["block"] = hidden.flatten(0, -2).clone()

        handles = [] if self.block is None else [hook(self.block, of_block)]
        try:
            with torch.no_grad():
                tokens = self._image_tokens(
                    {**self.steps.prompt.inputs, self.name: pixels}
                )
        finally:
            for handle in handles:
                handle.remove()
        return tokens, found.get("block")

    def _image_tokens(self, inputs: dict[str, Any]) -> Tensor:
        if self.adapter.cross_attention is not None:
            names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
            seen = self.model.model.vision_model(**{n: inputs[n] for n in names})
            return seen.last_hidden_state.flatten(0, -2)
        found: list[Tensor] = []

        def of_text(module: Any, args: Any, kwargs: Any) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise Reached

        layer = find_decoder(self.model).layers[0]
        handle = layer.register_forward_pre_hook(of_text, with_kwargs=True)
        try:
            with pytest.raises(Reached):
                self.model(**inputs)
        finally:
            handle.remove()
        return found[0][0, self.steps.prompt.image_keys[0]]

    def layer_tokens(self, count: int) -> Tensor:
        assert self.block is not None
        method = LayerActivation(Saliency(self.model).forward_func, self.block)
        return image_token_of(
            count,
            StepRequest(
                method=method,
                steps=self.steps,
                arguments={},
                on_step=lambda: None,
            ),
        )


def hook(module: nn.Module, function: Any) -> Any:
    return module.register_forward_hook(function)


def changed(after: Tensor, before: Tensor) -> list[int]:
    difference = (after - before).abs().amax(-1)
    return (difference > 1e-6 * before.abs().max()).nonzero()[:, 0].tolist()


def some_elements(token: Tensor, seed: int = 0) -> Iterator[tuple[int, int]]:
    """Elements of some tokens, and some of no token, as ``(flat index, token)``."""
    generator = torch.Generator().manual_seed(seed)
    present = token.unique().tolist()
    order = torch.randperm(len(present), generator=generator).tolist()
    tokens = [present[i] for i in order if present[i] >= 0][:NUM_TOKENS]
    tokens += [-1] * NUM_OUTSIDE if -1 in present else []
    for wanted in tokens:
        places = (token.flatten() == wanted).nonzero()[:, 0]
        pick = int(torch.randint(len(places), (1,), generator=generator))
        yield int(places[pick]), wanted


def check(model: Any, inputs: Mapping[str, Any]) -> Seen:
    """Single elements change the token that they stand for, and no other."""
    seen = Seen(silenced(model), inputs)
    placed = seen.layout.placed
    values = seen.token[seen.token >= 0].unique()
    assert torch.equal(values, placed.sort().values), "a token without a pixel"
    before, block_before = seen(seen.pixels)
    has_layer = block_before is not None and model.config.model_type != "fast_vlm"
    if model.config.model_type in MORE_TOKENS:
        has_layer = False
        with pytest.raises(ValueError, match="can't be matched with the"):
            seen.layer_tokens(len(block_before))
    if has_layer:
        of_layer = seen.layer_tokens(len(block_before))
    for element, token in some_elements(seen.token):
        pixels = seen.pixels.clone()
        pixels.view(-1)[element] += PERTURBATION
        after, block_after = seen(pixels)
        tokens = set(changed(after, before)) & set(placed.tolist())
        assert tokens == ({token} if token >= 0 else set()), (element, token)
        if has_layer and token >= 0:
            rows = changed(block_after, block_before)
            assert rows and {int(of_layer[row]) for row in rows} == {token}
    return seen


@pytest.mark.parametrize(
    "name",
    [name for name in CASES if name not in ELSEWHERE],
)
def test_single_elements_change_their_own_token(name: str) -> None:
    case = CASES[name]
    model = case.model(1, case.implementations[0])
    check(model, case.inputs(1, 4))
    if name in (*pixtral.VARIANTS, *patch_grid.VARIANTS):
        # The other seed's image is tall where this one is wide.
        check(model, case.inputs(2, 4))


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One prompt with the images of two."""
    along_text = ("input_ids", "mm_token_type_ids", "token_type_ids")
    return {
        name: torch.cat([one[name], other[name]], dim=int(name in along_text))
        for name in one
    }


@pytest.mark.parametrize(
    "name", ["llava", "pixtral", "mistral3", "qwen2_5_vl", "qwen3_vl", "gemma4"]
)
def test_two_images(name: str) -> None:
    case = CASES[name]
    inputs = joined(case.inputs(0, 4), case.inputs(1, 4))
    seen = check(case.model(0, "sdpa"), inputs)
    assert seen.layout.num_images == 2


def test_two_images_of_video_llama_3_with_merge_sizes_of_their_own() -> None:
    case = CASES["video_llama_3"]
    one, other = case.inputs(0, 4), case.inputs(1, 4)
    other["image_merge_sizes"] = torch.tensor([1])
    ids = other["input_ids"]
    merged = (ids == IMAGE_TOKEN).sum()
    more = torch.full((1, int(merged) * 3), IMAGE_TOKEN)
    other["input_ids"] = torch.cat([ids[:, :5], more, ids[:, 5:]], dim=1)
    seen = check(case.model(0, "sdpa"), joined(one, other))
    assert [view.grid for view in seen.layout.views] == [(2, 3), (6, 4)]


@pytest.mark.parametrize("variant", ["llava_next", "llava_onevision"])
def test_two_images_on_canvases_of_their_own(variant: str) -> None:
    """The second image has only two tiles, so two more pad its row."""
    model = tiled_canvas.build(variant, 1)
    one, other = (tiled_canvas.inputs(variant, seed, 4) for seed in (0, 1))
    other["image_sizes"] = torch.tensor([[30, 60]])
    text = other["input_ids"][other["input_ids"] != IMAGE_TOKEN]
    image = torch.full((16 + 4 * 9,), IMAGE_TOKEN)
    other["input_ids"] = torch.cat([text[:4], image, text[4:]])[None]
    seen = check(model, joined(one, other))
    assert (seen.token[1, :3] >= 0).all() and (seen.token[1, 3:] == -1).all()


def test_images_of_one_square_each() -> None:
    """LLaVA-OneVision does not cut the images of a prompt with several."""
    model = tiled_canvas.build("llava_onevision", 1)
    generator = torch.Generator().manual_seed(0)
    image = torch.full((17,), IMAGE_TOKEN)
    text = torch.arange(10, 14)
    seen = check(
        model,
        {
            "input_ids": torch.cat([text, image, text, image, text])[None],
            "pixel_values": torch.randn(2, 1, 3, 32, 32, generator=generator),
            "image_sizes": torch.tensor([[50, 71], [32, 20]]),
            "batch_num_images": torch.tensor([2]),
        },
    )
    assert seen.layout.placeless.tolist() == [16, 33]


@pytest.mark.parametrize("height", [50, 71, 128])
def test_padding_of_a_canvas_belongs_to_no_token(height: int) -> None:
    """Images of all shapes, which decide the rows and columns that are removed."""
    from captum_dexar.families.geometry.canvas import kept_cells

    model: Any = tiled_canvas.build("llava_next", 1)
    inputs = tiled_canvas.inputs("llava_next", 0, 4)
    kept = kept_cells((height, 40), tiled_canvas.PINPOINTS, 32, 4)
    inputs["image_sizes"] = torch.tensor([[height, 40]])
    rows, columns = kept.grid
    image = torch.full((16 + rows * (columns + 1),), IMAGE_TOKEN)
    text = inputs["input_ids"][0, :4]
    inputs["input_ids"] = torch.cat([text, image, text])[None]
    tiles = kept.tiles[0] * kept.tiles[1]
    inputs["pixel_values"] = torch.randn(1, 1 + tiles, 3, 32, 32)
    seen = check(model, inputs)
    has_padding = kept.grid != (4 * kept.tiles[0], 4 * kept.tiles[1])
    assert bool((seen.token == -1).any()) == has_padding


def test_pixels_that_fill_no_patch() -> None:
    config = tiny_vlm().config
    config.vision_config.image_size = 37
    torch.manual_seed(0)
    llava: Any = LlavaForConditionalGeneration(config).eval()
    roughen(llava)
    inputs = dict(prompt_inputs())
    inputs["pixel_values"] = torch.randn(1, 3, 37, 37)
    seen = check(llava, inputs)
    assert (seen.token[..., 32:, :] == -1).all() and (seen.token[..., 32:] == -1).all()
    assert (seen.token[..., :32, :32] >= 0).all()
    inputs = idefics3.inputs(0, 4)
    inputs["pixel_values"] = torch.randn(1, 5, 3, 37, 37)
    inputs["pixel_attention_mask"] = torch.ones(1, 5, 37, 37, dtype=torch.long)
    seen = check(idefics3.build("idefics3", 0, "sdpa", tile=37), inputs)
    assert (seen.token[..., 32:, :] == -1).all()


def test_unused_tiles_of_mllama_belong_to_no_token() -> None:
    inputs = cross_attention.mllama_inputs(0, 4)
    seen = Seen(cross_attention.build_mllama(0, "sdpa"), inputs)
    assert (seen.token[:, :, 3] == -1).all() and (seen.token[:, :, :3] >= 0).all()


# Sides of a picture, and how many cells the convolutions reach beyond a cell.
CONVOLUTIONS = {"florence2": (96, 1), "chameleon": (48, 3)}


def without_blocks(name: str) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """A model whose vision tower is reduced to the convolutions that make the grid, and
    its features, ``(image tokens, size)``."""
    model: Any = CASES[name].model(0, "sdpa")
    if name == "florence2":
        tower = model.model.vision_tower
        outputs = r"(window_attn\.proj|channel_attn\.proj|block\.conv[12])$"
    else:
        tower = model.model.vqmodel.encoder
        outputs = r"(attn_1\.proj_out|conv2)$"
    for module_name, module in list(tower.named_modules()):
        if re.search(outputs, module_name):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, child_name, nn.Identity())

    def features(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            if name == "chameleon":
                return tower(pixels)[0].flatten(1).T
            tokens = model.model.multi_modal_projector(tower(pixels)[0])[0]
            # The first is the mean of all.
            return torch.cat([torch.zeros_like(tokens[:1]), tokens[1:]])

    return model, features


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_cells_change_their_own_token_and_its_neighbours(name: str) -> None:
    side, reach = CONVOLUTIONS[name]
    model, features = without_blocks(name)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, side, side, generator=generator)
    adapter = adapter_for_config(model.config)
    count = 12 * 12 + int(name == "florence2")
    layout = adapter.layout(
        {"pixel_values": pixels}, count, image_sizes=None, config=model.config
    )
    token = adapter.token_of_pixel_input(
        {"pixel_values": pixels}, layout, model.config
    ).expand_as(pixels)
    before = features(pixels)
    for row, column in ((0, 0), (0, 11), (5, 7), (8, 2), (11, 6), (11, 11)):
        cell = layout.placed.view(12, 12)[row, column]
        after = features(pixels.masked_fill(token == cell, 9.0))
        places = torch.tensor(changed(after, before)) - layout.views[0].start
        assert row * 12 + column in places
        distance = torch.stack([places // 12 - row, places % 12 - column]).abs()
        assert int(distance.max()) <= reach


def test_cells_along_a_side() -> None:
    # 27 patches of 14 pixels, two of which make a cell: the last one has no partner.
    cells = cells_of_pixels(384, 13, 14)
    assert cells[:364].tolist() == [pixel // 28 for pixel in range(364)]
    assert (cells[364:] == -1).all()
    # More patches left than a cell has: they are spread, as in adaptive pooling.
    assert cells_of_pixels(80, 6, 10).unique(return_counts=True)[1].sum() == 80
    assert cells_of_pixels(80, 6, 10).min() == 0
    # Without patches, the cells fill the side.
    assert cells_of_pixels(10, 5, None).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
