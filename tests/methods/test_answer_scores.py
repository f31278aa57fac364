"""Reductions stream; what each layer and head gives is kept where it is wanted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import (
    ImagePromptInput,
    LayerDexAR,
    VLMAttribution,
    VLMAttributionResult,
)
from captum_dexar.attention_gradients import LayerGradients
from captum_dexar.cli.reports import Outputs, report
from captum_dexar.methods import answer_scores
from captum_dexar.methods.answer_scores import AnswerScores
from captum_dexar.methods.options import DexAROptions
from captum_dexar.model import memory as memory_budget
from captum_dexar.model.target_logits import TargetLogits
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch.utils._python_dispatch import TorchDispatchMode

TARGET = [7, 8, 9, 10]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}


def test_layers_are_kept_or_not_and_nothing_else_changes() -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm(seed=3)))
    inputs = prompt_inputs(3)
    default = method.attribute(inputs, TARGET)
    kept = method.attribute(inputs, TARGET, keep_layers=True)
    dropped = method.attribute(inputs, TARGET, keep_layers=False)
    assert default.layer_attr is not None and default.head_weights is not None
    assert torch.equal(default.layer_attr, kept.layer_attr)
    torch.testing.assert_close(kept.layer_attr.sum(1), kept.token_attr)
    for name in ("layer_attr", "layer_maps", "head_weights"):
        assert getattr(dropped, name) is None
    for name in ("token_attr", "token_weights", "seq_attr", "token_log_probs"):
        assert torch.equal(getattr(dropped, name), getattr(kept, name))
    assert dropped.layer_indices == kept.layer_indices == [0, 1, 2]
    with pytest.raises(ValueError, match="keep_layers=True"):
        dropped.plot_layers()


def test_layers_of_a_large_answer_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm(seed=3)))
    inputs = prompt_inputs(3)
    size = len(TARGET) * 3 * 16 * 4
    for limit, is_kept in ((size, True), (size - 1, False)):
        monkeypatch.setattr(answer_scores, "KEPT_BYTES", limit)
        for arguments in (
            {"target": TARGET},
            {"gen_args": {**GREEDY, "max_new_tokens": 4}},
        ):
            result = method.attribute(inputs, **arguments)
            assert (result.layer_attr is not None) == is_kept
        kept = method.attribute(inputs, TARGET, keep_layers=True)
        assert kept.layer_attr is not None


def _gradients(layer: int, heads: int, steps: slice) -> LayerGradients:
    """Random gradients of two examples: 3 image keys, and 4 text keys in two blocks."""
    generator = torch.Generator().manual_seed(100 * layer + steps.start)
    count = steps.stop - steps.start
    image = torch.randn(2, count, heads, 3, generator=generator)
    text = torch.randn(2, count, heads, 4, generator=generator)
    num_image = torch.randint(1, 4, (2, count, heads), generator=generator)
    num_text = torch.randint(1, 5, (2, count, 1), generator=generator)
    # Keys that may not be attended to are zero.
    image *= torch.arange(3) < num_image[..., None]
    text *= torch.arange(4) < num_text[..., None]
    blocks = [text[..., :1], text[..., 1:]]
    return LayerGradients(layer, image, blocks, num_image, num_text, steps)


def _mean_of_largest(values: list[float], top_k: int, num_keys: int) -> float:
    count = min(top_k, num_keys)
    return sum(sorted((max(v, 0.0) for v in values), reverse=True)[:count]) / count


@pytest.mark.parametrize("head_filter", [True, False])
@pytest.mark.parametrize("top_k", [1, 2])
def test_equations_by_hand(top_k: int, head_filter: bool) -> None:
    """Steps 2 to 5 of an answer in two parts, layers in the user's order. Layer 6 has
    no attention."""
    options = DexAROptions(head_filter=head_filter, top_k=top_k)
    scores = AnswerScores(torch.zeros(2, 3), slice(2, 6), [4, 1, 6], options)
    heads_of = {1: 1, 4: 2}
    reported: list[int] = []
    token_map, best = torch.zeros(2, 4, 3), torch.zeros(2, 4, 2)
    head_weights, layer_maps = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 3)
    for layer, heads in heads_of.items():
        for steps in (slice(2, 5), slice(5, 6)):
            part = _gradients(layer, heads, steps)
            scores.add(part, reported.append)
            text = torch.cat(list(part.text_blocks), dim=-1)
            for index in range(2 * (steps.stop - steps.start) * heads):
                rest, head = divmod(index, heads)
                batch, step = divmod(rest, steps.stop - steps.start)
                own, answer = (batch, step, head), (batch, steps.start + step - 2)
                image = part.image[own].tolist()
                num_image = int(part.num_image_keys[own])
                num_text = int(part.num_text_keys[batch, step, 0])
                s_img = _mean_of_largest(image, top_k, num_image)
                s_text = _mean_of_largest(text[own].tolist(), top_k, num_text)
                weight = max(s_img - s_text, 0.0) if head_filter else 1.0
                added = weight * part.image[own].relu()
                token_map[answer] += added
                place = [4, 1].index(layer)
                layer_maps[answer][place] += added
                head_weights[answer][place, head] = weight
                best[answer] = torch.maximum(
                    best[answer], torch.tensor([s_img, s_text])
                )
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 9, generator=generator)
    result = scores.result(TargetLogits.of(logits, torch.full((2, 4), 5)))
    assert reported == [3, 1, 3, 1] and result.layer_indices == [4, 1]
    torch.testing.assert_close(result.token_attr, token_map)
    torch.testing.assert_close(
        result.token_weights, (best[..., 0] - best[..., 1]).relu()
    )
    torch.testing.assert_close(result.layer_attr, layer_maps)
    torch.testing.assert_close(result.head_weights, head_weights)
    torch.testing.assert_close(result.token_log_probs, logits.log_softmax(-1)[..., 5])
    for name in ("token_attr", "token_weights", "layer_attr", "head_weights"):
        assert getattr(result, name).dtype == torch.float32


def test_layers_with_other_numbers_of_heads_are_followed_by_zeros() -> None:
    numbers = (2, 4, 1)
    scores = AnswerScores(torch.arange(3)[None], slice(0, 2), [0, 1, 2], DexAROptions())
    generator = torch.Generator().manual_seed(0)
    for layer, heads in enumerate(numbers):
        image = torch.rand(1, 2, heads, 3, generator=generator)
        scores.add(
            LayerGradients(
                layer=layer,
                image=image,
                text_blocks=[torch.zeros(1, 2, heads, 5)],
                num_image_keys=torch.full((1, 2, 1), 3),
                num_text_keys=torch.full((1, 2, 1), 5),
            )
        )
    logits = TargetLogits.of(torch.rand(1, 2, 9), torch.tensor([[1, 2]]))
    weights = scores.result(logits).head_weights
    assert weights is not None and weights.shape == (1, 2, 3, 4)
    for layer, heads in enumerate(numbers):
        assert (weights[:, :, layer, :heads] > 0).all()
        assert not weights[:, :, layer, heads:].any()


@pytest.mark.parametrize("name", ["qwen3_5", "paligemma2"])
def test_parts_of_an_answer_keep_alike(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first steps by themselves would be small enough."""
    from tests.families.cases import CASES

    (case,) = [case for case in CASES if case.name == name]
    method = VLMAttribution(LayerDexAR(case.model(0, case.implementations[0])))
    inputs = case.inputs(0, 3)
    result = method.attribute(inputs, gen_args=GREEDY, keep_layers=False)
    assert result.layer_attr is None and result.head_weights is None
    assert result.token_attr.shape[0] == 6
    one_step = result.token_attr[0].numel() * 4 * 4
    monkeypatch.setattr(answer_scores, "KEPT_BYTES", one_step)
    result = method.attribute(inputs, gen_args=GREEDY, max_tokens_per_pass=1)
    assert result.layer_attr is None and result.token_attr.shape[0] == 6


def test_one_map_a_layer_is_there_whatever_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_scores, "KEPT_BYTES", 0)
    inputs: dict[str, Any] = dict(prompt_inputs(3))
    pixels, ids = inputs.pop("pixel_values"), inputs.pop("input_ids")
    maps = LayerDexAR(tiny_vlm(seed=3)).attribute(
        pixels, 7, (ids, inputs), sum_layers=False
    )
    assert [tuple(layer.shape) for layer in maps] == [(1, 1, 4, 4)] * 3


def test_files_and_reports_without_layers(tmp_path: Path, capsys: Any) -> None:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(3).image, "Describe the image.", processor)
    method = VLMAttribution(LayerDexAR(model), processor)
    result = method.attribute(inp, keep_layers=False)
    result.save(tmp_path / "result.dexar")
    report(result, Outputs(tmp_path))
    written = {path.name for path in tmp_path.iterdir()} - {"result.dexar"}
    assert written == {"tokens.png", "sequence.png", "tokens.csv", "page.html"}
    assert "layers.png" not in capsys.readouterr().out
    loaded = VLMAttributionResult.load(tmp_path / "result.dexar")
    assert loaded.layer_maps is None and loaded.head_weights is None
    assert torch.equal(loaded.token_attr, result.token_attr)


class _Vocabulary(TorchDispatchMode):
    """Watches tensors of several rows over the vocabulary."""

    def __init__(self, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = size
        self.found: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            is_wide = isinstance(tensor, torch.Tensor) and tensor.dim() > 1
            rows = tensor.shape[-2] if is_wide else 0
            # The head's own weight, transposed, has as many rows as the hidden size.
            if 1 < rows < 48 and tensor.shape[-1] == self.size:
                self.found.add(rows)
        return output


def test_no_logits_that_nobody_reads() -> None:
    """A generated answer's logits are known; of a given one only its rows' are made."""
    size = 211
    method = VLMAttribution(LayerDexAR(tiny_vlm(seed=3, vocab_size=size)))
    inputs = prompt_inputs(3)
    method.attribute(inputs, TARGET)
    with _Vocabulary(size) as seen:
        result = method.attribute(inputs, gen_args=GREEDY)
        list(method.stream(inputs, gen_args=GREEDY))
    assert not seen.found
    with _Vocabulary(size) as seen:
        given = method.attribute(inputs, result.target_ids)
    assert seen.found == {len(result.target_ids)}
    torch.testing.assert_close(
        given.token_log_probs, result.token_log_probs, rtol=1e-5, atol=1e-5
    )


def test_log_probabilities_are_the_models_own() -> None:
    """Before temperature and filters, which change what is drawn."""
    model: Any = tiny_vlm(seed=3)
    inputs = prompt_inputs(3)
    torch.manual_seed(0)
    result = VLMAttribution(LayerDexAR(model)).attribute(
        inputs, gen_args={**GREEDY, "do_sample": True, "temperature": 3.0, "top_k": 9}
    )
    whole = torch.cat([inputs["input_ids"], result.target_ids[None, :-1]], dim=1)
    with torch.no_grad():
        logits = model(input_ids=whole, pixel_values=inputs["pixel_values"]).logits
    expected = logits[0, -6:].log_softmax(-1).gather(1, result.target_ids[:, None])
    torch.testing.assert_close(
        result.token_log_probs, expected[:, 0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("fitting", "expected"), [(10**6, 256), (100, 100), (3, 16), (0, 16)]
)
def test_tokens_at_once_follow_the_free_memory(
    fitting: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    projections = 48 + 24 + 24 + 48 + 80 + 80 + 48
    a_token = 4 * 4 * 2 * (projections + 8 * 48 + 99)
    monkeypatch.setattr(
        memory_budget, "free_memory", lambda device: 16 * a_token * fitting
    )
    model: Any = tiny_vlm()
    layer = model.model.language_model.layers[0]
    ids = torch.zeros(2, 3, dtype=torch.long)
    tokens = memory_budget.tokens_at_once(model, layer, ids)
    assert tokens == expected


@pytest.mark.parametrize(("free", "expected"), [(2**20, 2**16), (2**60, 28 * 2**20)])
def test_recorded_bytes_follow_the_free_memory(
    free: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_budget, "free_memory", lambda device: free)
    recorded = memory_budget.recorded_bytes(tiny_vlm(), torch.device("cpu"))
    assert recorded == expected


def test_more_is_recorded_of_a_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "RECORDED_BYTES", 0)
    model = tiny_vlm()
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert memory_budget.recorded_bytes(model, torch.device("cpu")) == weights // 25


def test_free_memory_is_that_of_the_machine() -> None:
    free = memory_budget.free_memory(torch.device("cpu"))
    assert 2**26 < free < 2**50
