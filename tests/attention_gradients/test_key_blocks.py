"""Image and text keys apart, and what is contracted with them, key by key."""

from typing import Any

import pytest
import torch
from captum_dexar.attention_gradients import key_blocks as key_blocks_module
from captum_dexar.attention_gradients.contraction import contract, joined_heads
from captum_dexar.attention_gradients.gradients import LayerGradients
from captum_dexar.attention_gradients.key_blocks import key_blocks, KeyBlocks
from torch import Tensor

BATCH, HEADS, VALUE_HEADS, STEPS, KEYS, SIZE = 2, 4, 2, 3, 9, 5
CPU = torch.device("cpu")
# Contiguous in every example, apart, and in other places of each example.
PLACES = {
    "first": [[0, 1, 2], [0, 1, 2]],
    "run": [[3, 4, 5], [3, 4, 5]],
    "last": [[6, 7, 8], [6, 7, 8]],
    "apart": [[1, 2, 4], [1, 2, 4]],
    "each": [[1, 2, 3], [4, 6, 7]],
    "all but one": [[0, 1, 2, 3, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]],
    "all": [list(range(9)), list(range(9))],
}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gathered(blocks: KeyBlocks, tensor: Tensor) -> list[list[float]]:
    """Each example's text entries of a tensor ``(batch, keys)``, without padding."""
    rows: list[list[float]] = [[] for _ in tensor]
    for block in blocks.text:
        part = block.of(tensor, 1)
        masked = torch.zeros(part.shape, dtype=torch.bool)
        if block.masked is not None:
            masked = block.masked[:, 0, 0].expand(part.shape)
        for row, values, gone in zip(rows, part, masked):
            row += values[~gone].tolist()
    return rows


@pytest.mark.parametrize("block", [2, 3, 1024])
@pytest.mark.parametrize("held", [9, 6])
@pytest.mark.parametrize("places", PLACES)
def test_every_key_is_image_or_text(
    places: str, held: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the call holds the last keys only, the first three are neither."""
    monkeypatch.setattr(key_blocks_module, "TEXT_BLOCK", block)
    image_keys = torch.tensor(PLACES[places])
    blocks = key_blocks(image_keys, KEYS, held, None, STEPS, CPU)
    names = torch.arange(9 - held, 9).expand(BATCH, -1)
    text = gathered(blocks, names)
    for example, row in enumerate(image_keys.tolist()):
        assert text[example] == [k for k in range(9 - held, 9) if k not in row]
    assert blocks.image is not None
    images = blocks.image.of(names, 1)
    is_held = image_keys >= 9 - held
    assert torch.equal(images[is_held], image_keys[is_held])
    if is_held.all():
        assert blocks.image.masked is None
    else:
        assert blocks.image.masked is not None
        assert torch.equal(blocks.image.masked, ~is_held[:, None, None])
    num_image = is_held.sum(1)[:, None, None].expand(-1, STEPS, 1)
    assert torch.equal(blocks.num_image_keys.expand(BATCH, -1, -1), num_image)
    assert torch.equal(blocks.num_text_keys.expand(BATCH, -1, -1), held - num_image)
    widths = [one.of(names, 1).shape[1] for one in blocks.text]
    assert max(widths) <= block
    is_run = places in ("first", "run", "last", "all") and bool(is_held.all())
    assert isinstance(blocks.image.keys, slice) == is_run
    # As few blocks as there can be, where the image keys of all examples are one run.
    if isinstance(blocks.image.keys, slice):
        run = blocks.image.keys
        around = (run.start, held - run.stop)
        assert sum(width > 0 for width in widths) == sum(-(-n // block) for n in around)


@pytest.mark.parametrize("image_keys", [None, torch.zeros(BATCH, 0, dtype=torch.long)])
def test_without_an_image_every_key_is_text(image_keys: Tensor | None) -> None:
    blocks = key_blocks(image_keys, KEYS, KEYS, None, STEPS, CPU)
    assert blocks.image is None and len(blocks.text) == 1
    assert blocks.text[0].keys == slice(0, 9) and blocks.text[0].masked is None
    assert torch.equal(blocks.num_image_keys, torch.zeros(1, STEPS, 1))
    assert torch.equal(blocks.num_text_keys, torch.full((1, STEPS, 1), 9))
    value, gradient = rand(BATCH, HEADS, KEYS, SIZE), rand(BATCH, STEPS, HEADS, SIZE)
    found = contract(0, gradient, value, blocks, None, slice(None))
    assert found.image.shape == (BATCH, STEPS, HEADS, 0)


def test_a_run_of_image_keys_is_a_view() -> None:
    """No copy of the cache is made, and text comes in slices, too."""
    keys = torch.tensor([[3, 4, 5]]).expand(BATCH, -1)
    blocks = key_blocks(keys, KEYS, KEYS, None, STEPS, CPU)
    value = rand(BATCH, VALUE_HEADS, KEYS, SIZE)
    assert blocks.image is not None
    for block, (start, stop) in zip(
        [blocks.image, *blocks.text], [(3, 6), (0, 3), (6, 9)]
    ):
        part = block.of(value, 2)
        assert part.data_ptr() == value[:, :, start].data_ptr()
        assert torch.equal(part, value[:, :, start:stop])


def allowed_mask(kind: str) -> Tensor:
    shape = {
        "shared": (1, 1, STEPS, KEYS),
        "example": (BATCH, 1, STEPS, KEYS),
        "head": (BATCH, HEADS, STEPS, KEYS),
        "one row": (BATCH, 1, 1, KEYS),
        "more keys than are held": (1, 1, STEPS, KEYS + 2),
    }[kind]
    return rand(*shape, seed=1) > -0.3


@pytest.mark.parametrize(
    "kind", ["shared", "example", "head", "one row", "more keys than are held"]
)
@pytest.mark.parametrize("held", [9, 6])
@pytest.mark.parametrize("places", PLACES)
def test_contraction_key_by_key(places: str, held: int, kind: str) -> None:
    """Inner products in plain loops; keys that may not be attended to, and those that
    are not held, are zero."""
    allowed = allowed_mask(kind)
    image_keys = torch.tensor(PLACES[places])
    blocks = key_blocks(image_keys, KEYS, held, allowed, STEPS, CPU)
    value = rand(BATCH, VALUE_HEADS, KEYS, SIZE).double()
    gradient = rand(BATCH, STEPS, HEADS, SIZE, seed=2).double()
    factor = rand(BATCH, HEADS, STEPS, KEYS, seed=3).double()
    dense = allowed[..., -KEYS:].expand(BATCH, HEADS, STEPS, KEYS)
    dense = dense & (torch.arange(KEYS) >= KEYS - held)
    for attention in (None, factor):
        found = contract(
            5,
            gradient,
            value[:, :, -held:],
            blocks,
            None if attention is None else attention[..., -held:],
            slice(2, 5),
        )
        assert found.layer == 5 and found.steps == slice(2, 5)
        text = torch.cat(list(found.text_blocks), dim=-1)
        for batch, step, head in torch.cartesian_prod(
            torch.arange(BATCH), torch.arange(STEPS), torch.arange(HEADS)
        ).tolist():
            row = []
            for key in range(KEYS):
                one = value[batch, head // 2, key] @ gradient[batch, step, head]
                if attention is not None:
                    one = one * attention[batch, head, step, key]
                row.append(float(one) * bool(dense[batch, head, step, key]))
            own = PLACES[places][batch]
            expected = [row[key] for key in own]
            assert found.image[batch, step, head].tolist() == pytest.approx(expected)
            # Rows of text are padded with zeros, and zeros are no keys.
            others = sorted(row[key] for key in range(KEYS) if key not in own)
            nonzero = [value for value in others if value]
            made = sorted(v for v in text[batch, step, head].tolist() if v)
            assert made == pytest.approx(nonzero)
        counts = dense.transpose(1, 2).long()
        is_image = torch.zeros(BATCH, KEYS, dtype=torch.long)
        is_image.scatter_(1, image_keys, 1)
        num_image = (counts * is_image[:, None, None]).sum(-1)
        num_text = counts.sum(-1) - num_image
        assert torch.equal(found.num_image_keys.expand(num_image.shape), num_image)
        assert torch.equal(found.num_text_keys.expand(num_text.shape), num_text)


@pytest.mark.parametrize("places", PLACES)
def test_tensors_are_made_on_the_device_of_the_call(places: str) -> None:
    """Whatever torch's default device is; of the one called meta nothing is known."""
    allowed, image_keys = allowed_mask("head"), torch.tensor(PLACES[places])
    blocks = key_blocks(image_keys, KEYS, 6, allowed, STEPS, CPU)
    with torch.device("meta"):
        same = key_blocks(image_keys, KEYS, 6, allowed, STEPS, CPU)
    for name in ("num_image_keys", "num_text_keys"):
        assert torch.equal(getattr(same, name), getattr(blocks, name))


def test_a_mask_that_allows_everything_is_none() -> None:
    everything = torch.ones(1, 1, STEPS, KEYS, dtype=torch.bool)
    blocks = key_blocks(torch.tensor([[3, 4]]), KEYS, KEYS, everything, STEPS, CPU)
    assert blocks.image is not None and blocks.image.masked is None
    assert [block.masked for block in blocks.text] == [None, None]


def layer_gradients(image: Tensor, text: list[Tensor], counts: Any) -> LayerGradients:
    num_image, num_text = (torch.tensor(one) for one in counts)
    return LayerGradients(3, image, iter(text), num_image, num_text, slice(1, 3))


def test_heads_of_several_calls_are_heads_of_one_layer() -> None:
    """A self-attention with two heads, then a cross-attention with three."""
    own_text = [rand(BATCH, 2, 2, 4), rand(BATCH, 2, 2, 1)]
    cross_text = [rand(BATCH, 2, 3, 2)]
    cross_image = rand(BATCH, 2, 3, 6)
    own = layer_gradients(
        torch.zeros(BATCH, 2, 2, 0), own_text, ([[[0], [0]]], [[[4], [5]]])
    )
    cross = layer_gradients(
        cross_image,
        cross_text,
        ([[[6], [5]], [[6], [4]]], [[[2, 1, 0], [2, 2, 2]]]),
    )
    joined = joined_heads([own, cross], 6)
    assert joined.layer == 3 and joined.steps == slice(1, 3)
    assert joined.image.shape == (BATCH, 2, 5, 6)
    assert not joined.image[:, :, :2].any()
    assert torch.equal(joined.image[:, :, 2:], cross_image)
    blocks = list(joined.text_blocks)
    for block, alone, heads in zip(
        blocks, [*own_text, *cross_text], [slice(0, 2), slice(0, 2), slice(2, 5)]
    ):
        expected = torch.zeros(BATCH, 2, 5, alone.shape[-1])
        expected[:, :, heads] = alone
        assert torch.equal(block, expected)
    assert len(blocks) == 3
    assert joined.num_image_keys.tolist() == [
        [[0, 0, 6, 6, 6], [0, 0, 5, 5, 5]],
        [[0, 0, 6, 6, 6], [0, 0, 4, 4, 4]],
    ]
    assert joined.num_text_keys.tolist() == [[[4, 4, 2, 1, 0], [5, 5, 2, 2, 2]]]


def test_a_call_of_its_own_is_left_as_it_is() -> None:
    alone = layer_gradients(rand(1, 2, 3, 6), [], ([[[6], [6]]], [[[0], [0]]]))
    assert joined_heads([alone], 6) is alone
    # Without image keys it still has a place for each image token.
    padded = joined_heads([alone], 8)
    assert padded.image.shape == (1, 2, 3, 8) and not padded.image[..., 6:].any()
