"""Gradients of a layer that is a matrix product, so that they are known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum_dexar.attention_gradients import contraction as contraction_module
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.contraction import Contraction
from captum_dexar.attention_gradients.gradients import LayerGradients
from captum_dexar.attention_gradients.key_blocks import key_blocks, TEXT_BLOCK
from captum_dexar.attention_gradients.local_graphs import LocalGraph
from captum_dexar.model.consistency import Inconsistent
from torch import nn, Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

BATCH, HEADS, SIZE, QUERIES, KEYS, HIDDEN = 2, 4, 3, 5, 7, 6
IMAGE_KEYS = torch.tensor([[1, 2], [1, 2]])


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROJECTION = rand(HEADS * SIZE, HIDDEN, seed=5) / 4
# One reading per example and step.
READING = rand(BATCH, QUERIES, HIDDEN, seed=6)


def users_function(*args: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(*args, **kwargs)


def wrong_function(*args: Any, **kwargs: Any) -> Any:
    output, *rest = sdpa_attention_forward(*args, **kwargs)
    return (output + 0.1, *rest)


def call_of(
    function: Any = sdpa_attention_forward,
    mask: Tensor | None = None,
    keys: int = KEYS,
    is_cross: bool = False,
    **attributes: Any,
) -> AttentionCall:
    """The first queries' positions are before the last keys', as on a cache."""
    module: Any = nn.Module().eval()
    module.num_key_value_groups = 2
    for name, value in attributes.items():
        setattr(module, name, value)
    return AttentionCall(
        3,
        is_cross,
        function,
        eager_attention_forward,
        module,
        rand(BATCH, HEADS, QUERIES, SIZE, seed=1),
        rand(BATCH, HEADS // 2, keys, SIZE, seed=2),
        rand(BATCH, HEADS // 2, keys, SIZE, seed=3),
        causal(keys) if mask is None else mask,
        scaling=0.5,
    )


def causal(keys: int = KEYS) -> Tensor:
    place = torch.arange(QUERIES)[:, None] + keys - QUERIES
    return (torch.arange(keys) <= place)[None, None]


def graph_of(
    *calls: AttentionCall,
    explained: list[int] | None = None,
    steps: slice = slice(0, QUERIES),
    dtype: torch.dtype = torch.float32,
    is_shared: bool = False,
) -> LocalGraph:
    """Steps of the answer stand at the ``explained`` queries."""
    places = torch.arange(QUERIES) if explained is None else torch.tensor(explained)
    with torch.no_grad():
        outputs = [call.run()[0].to(dtype) for call in calls]
    leaves = [output.requires_grad_() for output in outputs]
    mixed = torch.stack(leaves).sum(0)[:, places[steps]].flatten(2)
    return LocalGraph(
        layer=3,
        hidden=mixed @ PROJECTION.to(dtype),
        outputs=leaves,
        calls=list(calls),
        query_positions=None if explained is None else places,
        steps=steps,
        output_positions=None if explained is None else places[steps],
        is_shared=is_shared,
    )


def contraction_of(power: float = 0.0, **settings: Any) -> Contraction:
    def read(hidden: Tensor, steps: slice) -> Tensor:
        return (hidden.float() * settings.get("reading", READING)[:, steps]).sum(-1)

    lens: Any = SimpleNamespace(
        scale=settings.get("scale", 1.0),
        read=read,
        contrast_ids=settings.get("contrast_ids"),
    )
    return Contraction(
        [lens],
        settings.get("image_keys", IMAGE_KEYS),
        settings.get("by_cross", False),
        power,
        settings.get("grad_kwargs"),
        settings.get("first_step", 0),
    )


def dense(parts: list[LayerGradients], image_keys: Tensor, keys: int) -> Tensor:
    """All keys in their order, ``(batch, steps, heads, keys)``."""
    images = torch.cat([part.image for part in parts], dim=1)
    texts = [torch.cat(list(part.text_blocks), dim=-1) for part in parts]
    text = torch.cat(texts, dim=1)
    result = torch.zeros(*images.shape[:3], keys)
    own = image_keys[0].tolist()
    result[..., own] = images
    result[..., [key for key in range(keys) if key not in own]] = text
    return result


def expected_of(call: AttentionCall, queries: list[int], power: float = 0.0) -> Tensor:
    """For the explained queries in order: inner products of each head, in a loop."""
    allowed = call.attention_mask.expand(BATCH, HEADS, QUERIES, -1)
    logits = 0.5 * call.query @ call.key.repeat_interleave(2, 1).transpose(2, 3)
    attention = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
    rows = []
    for step, query in enumerate(queries):
        change = (READING[:, step] @ PROJECTION.T).view(BATCH, HEADS, SIZE)
        heads = [call.value[:, h // 2] @ change[:, h, :, None] for h in range(HEADS)]
        gradient = torch.stack(heads, dim=1)[..., 0] * allowed[:, :, query]
        rows.append(gradient * attention[:, :, query] ** power)
    return torch.stack(rows, dim=1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("at_once", [1, 2, 5, None])
def test_every_position(
    power: float, at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts that bound how many gradients are held."""
    if at_once:
        limit = at_once * BATCH * HEADS * TEXT_BLOCK
        monkeypatch.setattr(contraction_module, "GRADIENTS_AT_ONCE", limit)
    call = call_of()
    parts: list[LayerGradients] = []
    ids = torch.arange(BATCH * QUERIES).view(BATCH, QUERIES)
    contraction = contraction_of(power, first_step=20, contrast_ids=ids)
    contraction(graph_of(call), KEYS, parts.append)
    said = [part.contrast_ids for part in parts if part.contrast_ids is not None]
    assert torch.equal(torch.cat(said, dim=1), ids)
    size = at_once or QUERIES
    assert [part.steps for part in parts] == [
        slice(20 + start, 20 + min(start + size, QUERIES))
        for start in range(0, QUERIES, size)
    ]
    assert {part.layer for part in parts} == {3}
    assert not any(part.image.requires_grad for part in parts)
    close(dense(parts, IMAGE_KEYS, KEYS), expected_of(call, list(range(5)), power))


def test_many_image_keys_bound_the_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contraction_module, "TEXT_BLOCK", 1)
    monkeypatch.setattr(contraction_module, "GRADIENTS_AT_ONCE", BATCH * HEADS * 4)
    parts: list[LayerGradients] = []
    contraction_of()(graph_of(call_of()), KEYS, parts.append)
    assert [part.image.shape[1] for part in parts] == [2, 2, 1]
    # However many there are, one step at a time is possible.
    monkeypatch.setattr(contraction_module, "GRADIENTS_AT_ONCE", 1)
    parts.clear()
    contraction_of()(graph_of(call_of()), KEYS, parts.append)
    assert [part.image.shape[1] for part in parts] == [1] * QUERIES


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("function", [sdpa_attention_forward, users_function])
def test_some_positions_of_a_pass(power: float, function: Any) -> None:
    """Three steps stand at queries 1, 3 and 4; the graph is for the last two."""
    call = call_of(function)
    parts: list[LayerGradients] = []
    graph = graph_of(call, explained=[1, 3, 4], steps=slice(1, 3))
    ids = torch.arange(3 * BATCH).view(BATCH, 3)
    contraction_of(power, first_step=7, contrast_ids=ids)(graph, KEYS, parts.append)
    (part,) = parts
    assert part.steps == slice(8, 10)
    assert part.contrast_ids is not None and torch.equal(part.contrast_ids, ids[:, 1:])
    expected = expected_of(call, [1, 3, 4], power)[:, 1:]
    close(dense([part], IMAGE_KEYS, KEYS), expected)
    # The mask of query 3 leaves the last key out.
    assert part.num_text_keys[0, :, 0].tolist() == [4, 5]
    assert part.num_image_keys[0, :, 0].tolist() == [2, 2]


def test_float16_is_scaled_to_its_range() -> None:
    """Without the scale these gradients would be zero in float16."""
    call = call_of()
    parts: list[LayerGradients] = []
    graph = graph_of(call, dtype=torch.float16)
    small = contraction_of(reading=READING * 2.0**-24, scale=2.0**24)
    small(graph, KEYS, parts.append)
    found = dense(parts, IMAGE_KEYS, KEYS) * 2.0**24
    torch.testing.assert_close(
        found, expected_of(call, list(range(5))), rtol=0.02, atol=0.02
    )
    parts.clear()
    # In another dtype there is no scale.
    contraction_of(scale=torch.nan)(graph_of(call), KEYS, parts.append)
    close(dense(parts, IMAGE_KEYS, KEYS), expected_of(call, list(range(5))))


@pytest.mark.parametrize(
    "is_shared, grad_kwargs, is_kept",
    [
        (True, None, True),
        (False, {"retain_graph": True}, True),
        (False, None, False),
        (True, {"retain_graph": False}, True),
    ],
)
def test_a_shared_graph_is_kept(
    is_shared: bool, grad_kwargs: dict[str, Any] | None, is_kept: bool
) -> None:
    graph = graph_of(call_of(), is_shared=is_shared)
    parts: list[LayerGradients] = []
    contract = contraction_of(grad_kwargs=grad_kwargs)
    contract(graph, KEYS, parts.append)
    if is_kept:
        contract(graph, KEYS, parts.append)
        assert torch.equal(parts[0].image, parts[1].image)
    else:
        with pytest.raises(RuntimeError, match="a second time"):
            contract(graph, KEYS, parts.append)


def test_a_function_of_the_users_is_checked() -> None:
    call = call_of(wrong_function)
    with pytest.raises(Inconsistent, match="do not give the output"):
        contraction_of()(graph_of(call), KEYS, lambda part: None)
    call = call_of(users_function)
    graph = graph_of(call)
    call.query = call.query[:, :, :0]
    with pytest.raises(Inconsistent, match="were not recorded"):
        contraction_of()(graph, KEYS, lambda part: None)


def test_keys_are_told_apart_once_for_layers_that_mask_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    def counted(*args: Any) -> Any:
        made.append(args)
        return key_blocks(*args)

    monkeypatch.setattr(contraction_module, "key_blocks", counted)
    contract, mask = contraction_of(), causal()

    def run(expected: int, **kwargs: Any) -> list[LayerGradients]:
        parts: list[LayerGradients] = []
        call = call_of(mask=kwargs.get("mask", mask))
        call.layer_mask = kwargs.get("layer_mask")
        graph = graph_of(call, explained=kwargs.get("explained"), steps=slice(0, 2))
        contract(graph, KEYS, parts.append)
        assert len(made) == expected
        return parts

    first, again = run(1, explained=[0, 1]), run(1, explained=[0, 1])
    assert torch.equal(first[0].image, again[0].image)
    # Another mask; and one that a module has narrowed, which is not kept.
    run(2, explained=[0, 1], mask=causal())
    chosen = causal()
    run(3, explained=[0, 1], mask=chosen, layer_mask=mask)
    run(4, explained=[0, 1], mask=chosen, layer_mask=mask)
    # The mask's number is not given to another while it is known.
    assert [held for held, _ in contract._blocks.values()][0] is mask


def test_a_chosen_key_need_not_be_a_positions_own() -> None:
    chosen = causal() & (torch.arange(KEYS) < 2)
    call = call_of(mask=chosen)
    parts: list[LayerGradients] = []
    with pytest.raises(Inconsistent, match="its own"):
        contraction_of()(graph_of(call), KEYS, parts.append)
    call.layer_mask = causal()
    contraction_of()(graph_of(call), KEYS, parts.append)
    assert parts[0].num_text_keys[0, :, 0].tolist() == [1] * QUERIES
    assert parts[0].num_image_keys[0, :, 0].tolist() == [1] * QUERIES
    # The layer allows a position its own key, and none of those behind it.
    call.attention_mask = torch.ones_like(chosen)
    with pytest.raises(Inconsistent, match="later than its positions"):
        contraction_of()(graph_of(call), KEYS, parts.append)
    call.layer_mask = chosen
    with pytest.raises(Inconsistent, match="its own"):
        contraction_of()(graph_of(call), KEYS, parts.append)


def test_a_position_that_attends_to_its_own_key_and_the_first_three() -> None:
    own = torch.arange(QUERIES)[:, None] + KEYS - QUERIES == torch.arange(KEYS)
    call = call_of(mask=own[None, None] | (torch.arange(KEYS) < 3))
    for explained in (None, [0, 1, 2, 3, 4]):
        parts: list[LayerGradients] = []
        contraction_of()(graph_of(call, explained=explained), KEYS, parts.append)
        close(dense(parts, IMAGE_KEYS, KEYS), expected_of(call, list(range(5))))


def test_a_window_holds_the_last_keys() -> None:
    """Of nine keys the first two are not held; the image is at keys 2 to 4."""
    call = call_of(sliding_window=KEYS)
    parts: list[LayerGradients] = []
    image_keys = torch.tensor([[1, 2, 3, 4]]).expand(BATCH, -1)
    contraction_of(image_keys=image_keys)(graph_of(call), 9, parts.append)
    assert parts[0].num_image_keys[0, :, 0].tolist() == [3] * QUERIES
    expected = expected_of(call, list(range(5)))
    assert not parts[0].image[..., 0].any()
    close(parts[0].image[..., 1:], expected[..., 0:3])
    # A layer that holds the prompt beside its window has the image where it was.
    config = SimpleNamespace(layer_types=4 * ["reference_sliding_attention"])
    call = call_of(sliding_window=KEYS, config=config)
    parts.clear()
    contraction_of(image_keys=image_keys)(graph_of(call), 9, parts.append)
    close(parts[0].image, expected[..., 1:5])
    # So has one whose first keys are an encoder's.
    call = call_of(sliding_window=KEYS)
    call.encoder_keys = 5
    parts.clear()
    contraction_of(image_keys=image_keys)(graph_of(call), 9, parts.append)
    close(parts[0].image, expected[..., 1:5])


def test_a_cross_attention_beside_a_self_attention() -> None:
    """Only the cross-attention reads the image; both are heads of the layer."""
    own = call_of()
    everything = torch.ones(1, 1, QUERIES, 4, dtype=torch.bool)
    cross = call_of(mask=everything, keys=4, is_cross=True)
    parts: list[LayerGradients] = []
    contraction_of(by_cross=True)(graph_of(own, cross), KEYS, parts.append)
    (part,) = parts
    assert part.image.shape == (BATCH, QUERIES, 2 * HEADS, 2)
    assert not part.image[:, :, :HEADS].any()
    close(part.image[:, :, HEADS:], expected_of(cross, list(range(5)))[..., 1:3])
    assert part.num_image_keys[0, 0].tolist() == 4 * [0] + 4 * [2]
    assert part.num_text_keys[0, :, 0].tolist() == [3, 4, 5, 6, 7]
    assert part.num_text_keys[0, :, -1].tolist() == 5 * [2]
    far = torch.tensor([[1, 4]])
    with pytest.raises(Inconsistent, match="up to key 4"):
        contraction_of(by_cross=True, image_keys=far)(
            graph_of(own, cross), KEYS, parts.append
        )
