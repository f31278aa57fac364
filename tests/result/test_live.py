"""Streamed tokens put together, and drawn in a notebook as they come."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.result.joined import joined
from captum_dexar.result.live import live
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from tests.result.test_result import make_result

FEW = {"max_new_tokens": 5, "do_sample": False}


def bundled() -> tuple[VLMAttribution, ImagePromptInput]:
    model, processor = load_vlm()
    inp = ImagePromptInput(make_scene(4).image, "Describe the image.", processor)
    return VLMAttribution(LayerDexAR(model), processor), inp


@pytest.fixture(name="outputs")
def _outputs() -> Iterator[list[dict[str, Any]]]:
    """What a notebook's cell is given to show."""
    pytest.importorskip("IPython")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    hook = sys.displayhook
    shell = InteractiveShell.instance()
    make: Any = CapturingDisplayPublisher
    shell.display_pub = publisher = make()
    yield publisher.outputs
    InteractiveShell.clear_instance()
    sys.displayhook = hook


@pytest.mark.parametrize("normalize", [True, False])
def test_joined_tokens_are_the_whole_answer(normalize: bool) -> None:
    method, inp = bundled()
    settings: Any = {"gen_args": FEW, "normalize": normalize}
    whole = method.attribute(inp, **settings)
    parts = list(method.stream(inp, every=2, **settings))
    result = joined(parts, normalize)
    assert result.output_tokens == whole.output_tokens
    assert result.words()[1:] and str(result) == str(whole)
    assert result.answer == whole.answer and result.layout == whole.layout
    for name in (
        "target_ids",
        "token_attr",
        "seq_attr",
        "token_weights",
        "token_log_probs",
        "head_weights",
        "layer_attr",
        "special_tokens",
        "word_starts",
        "sequence_map",
        "placeless_attr",
    ):
        one, other = getattr(result, name), getattr(whole, name)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_joined_without_a_tokenizer() -> None:
    method, inputs = VLMAttribution(LayerDexAR(tiny_vlm(seed=3))), prompt_inputs(3)
    parts = list(method.stream(inputs, gen_args=FEW))
    assert joined(parts).answer == method.attribute(inputs, gen_args=FEW).answer
    with pytest.raises(ValueError, match="nothing to join"):
        joined([])


def test_a_cell_is_drawn_again(outputs: list[dict[str, Any]]) -> None:
    method, inp = bundled()
    result = live(method.stream(inp, FEW, every=2), seconds=0.0)
    whole = method.attribute(inp, gen_args=FEW)
    assert result.answer == whole.answer
    first, *updates = outputs
    assert len(updates) == len(whole.output_tokens) + 1
    assert not first.get("update") and all(one["update"] for one in updates)
    ids = {one["transient"]["display_id"] for one in outputs}
    assert len(ids) == 1
    *drafts, last = (one["data"]["text/html"] for one in updates)
    assert last == result._repr_html_()
    for number, draft in enumerate(drafts, 1):
        assert draft.count("<span") == number
        assert "data:image/png;base64," in draft
    assert ">the</span>" in drafts[0]


def test_drafts_are_inert(outputs: list[dict[str, Any]]) -> None:
    tokens = ["<script>alert(1)</script>", "a\x1b[31m\x00", "&lt;", "\"'`"]
    parts = [
        make_result(
            output_tokens=[token],
            answer=token,
            target_ids=torch.tensor([1]),
            token_attr=torch.rand(1, 8),
            seq_attr=torch.rand(8),
            token_weights=torch.ones(1),
            **dict.fromkeys(
                (
                    "placeless_attr",
                    "token_log_probs",
                    "head_weights",
                    "layer_attr",
                    "layer_indices",
                    "special_tokens",
                    "word_starts",
                )
            ),
        )
        for token in tokens
    ]
    live(parts, seconds=0.0)
    draft = outputs[-2]["data"]["text/html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in draft and "&amp;lt;" in draft
    assert "<script" not in draft and "\x1b" not in draft and "\x00" not in draft
    assert "&quot;&#x27;`</span>" in draft


def test_without_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match="pip install ipython"):
        live([make_result()])
