"""A page as a file: the same from a saved result, small, and of finite numbers."""

import html as entities
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import Comparison, VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.result.page import page_of
from tests.result.pages import (
    heat_of,
    made,
    OPACITY,
    Open,
    picture,
    signed,
    SIZE,
    strength_of,
)

CASES: dict[str, Callable[[], VLMAttributionResult]] = {
    "plain": made,
    "signed": signed,
    "grey image": lambda: made(images=[picture(SIZE).convert("L")]),
    "transparent image": lambda: made(images=[picture(SIZE).convert("RGBA")]),
    "odd tokens": lambda: made(("\ud800", "\x00", "</script>", "\u202e")),
    "unknown image": lambda: made(
        layout=ImageLayout(6, (View("full", (2, 3), None),)), images=[]
    ),
    "hostile question": lambda: made(question="</script>\0\ud800\u202e'\"`\r\n<b>"),
    "half precision": lambda: made(token_weights=torch.rand(4).half()),
}


def test_the_question_stands_above_the_answer(tmp_path: Path) -> None:
    """The result's own, unless another one is given."""
    result = made(question="<b>why</b>?\nsay")
    shown = '<p class="prompt" dir="auto">&lt;b&gt;why&lt;/b&gt;?\nsay</p>'
    assert shown in result.to_html()
    assert result.to_html() == made().to_html(prompt="<b>why</b>?\nsay")
    assert result.to_html(prompt="how?") == made().to_html(prompt="how?")
    for page in (made().to_html(), result.to_html(prompt="")):
        assert 'class="prompt"' not in page
    assert entities.escape(shown) in result._repr_html_()
    compared = Comparison({"a": result, "b": signed()}, {"a": 1, "b": 1})
    assert shown in compared.to_html()


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_result_has_the_same_page(name: str, tmp_path: Path) -> None:
    """Byte for byte."""
    result = CASES[name]()
    html = result.to_html()
    assert html == result.to_html()
    result.save(tmp_path / "result.dexar")
    loaded = VLMAttributionResult.load(tmp_path / "result.dexar")
    assert loaded.to_html() == html
    assert loaded._repr_html_() == result._repr_html_()


def test_long_answers_stay_small(show: Open) -> None:
    """512 words on 1,024 image tokens, with layers."""
    view = View("full", (32, 32), (0.0, 0.0, 1024.0, 768.0))
    layout = ImageLayout(1024, (view,), ((1024, 768),))
    texts = tuple(f"word{index}" for index in range(512))
    layer_attr = torch.rand(512, 24, 1024)
    result = made(
        texts,
        layout,
        layer_attr=layer_attr,
        layer_indices=list(range(24)),
        token_attr=layer_attr.sum(1),
    )
    html = result.to_html()
    assert len(html) < 3_000_000
    page = show(html)
    page.click(500)
    page.leave()
    heat = torch.nn.functional.interpolate(
        result.pixel_map(500)[None, None], (768, 576), mode="bilinear"
    )[0, 0]
    drawn = heat_of(page.pixels(), OPACITY * strength_of(result, 500))
    assert float((torch.from_numpy(drawn) - heat).abs().mean()) < 0.01
    assert page.complaints() == []


def test_a_photograph_and_a_paragraph_are_small() -> None:
    view = View("full", (24, 24), (0.0, 0.0, 1024.0, 1024.0))
    layout = ImageLayout(576, (view,), ((1024, 1024),))
    texts = tuple(f"word{index}" for index in range(64))
    layer_attr = torch.rand(64, 32, 576)
    result = made(texts, layout, layer_attr=layer_attr, layer_indices=list(range(32)))
    assert len(result.to_html()) < 1_000_000


def test_layers_of_long_answers_are_coarser_or_left_out(show: Open) -> None:
    view = View("full", (30, 30), (0.0, 0.0, 400.0, 600.0))
    layout = ImageLayout(900, (view,), (SIZE,))
    texts = tuple(f"word{index}" for index in range(40))
    for num_layers, grid in ((4, (30, 30)), (16, (15, 15)), (300, None)):
        layer_attr = torch.rand(40, num_layers, 900)
        result: Any = made(
            texts, layout, layer_attr=layer_attr, layer_indices=list(range(num_layers))
        )
        layers: Any = page_of({"": result}).results[0].layers
        expected = layer_attr.double().sum(-1)
        np.testing.assert_allclose(layers.strengths, expected)
        assert (layers.maps is None) == (grid is None)
        if grid is not None:
            assert layers.places[0].grid == grid
            means = torch.nn.functional.avg_pool2d(
                layer_attr.double().view(-1, 1, 30, 30), 30 // grid[0]
            )
            np.testing.assert_allclose(layers.maps.ravel(), means.ravel(), rtol=1e-6)


@pytest.mark.parametrize("field", ["token_attr", "seq_attr", "token_weights"])
def test_what_is_not_finite_is_refused(field: str) -> None:
    values = getattr(made(), field).clone()
    values[..., -1] = float("nan")
    with pytest.raises(ValueError, match="attributions that are not finite"):
        made(**{field: values}).to_html()


def test_separators_are_the_answers_own() -> None:
    texts = ("One", "two", "红", "色", "odd")
    page = page_of({"": made(texts, answer="One\n\ntwo  红色 very odd")})
    assert [word.before for word in page.words] == ["", "\n\n", "  ", "", " "]
