"""Images of one pixel, of one row, and of very many pixels."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from PIL import Image
from tests.result.pages import assert_drawn, made, OPACITY, Open, strength_of

SMALL = [(1, 1), (1, 7), (7, 1), (1, 3000), (3000, 1)]


def on_image_of(size: tuple[int, int], **changes: Any) -> VLMAttributionResult:
    """A result on a grid of 2 x 3 over an image of a height and width."""
    view = View("full", (2, 3), (0.0, 0.0, float(size[0]), float(size[1])))
    image = Image.linear_gradient("L").resize(size[::-1]).convert("RGB")
    layout = ImageLayout(6, (view,), (size,))
    return made(layout=layout, images=[image], **changes)


@pytest.mark.parametrize("size", SMALL)
def test_a_page_of_few_pixels(show: Open, size: tuple[int, int]) -> None:
    result: Any = on_image_of(size)
    page = show(result.to_html())
    page.click(3)
    page.leave()
    pixels = page.pixels()
    # As long as larger images are, and never without a row.
    assert max(pixels.shape[:2]) in (480, 768) and min(pixels.shape[:2]) >= 1
    scale = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    (view,) = result.views
    heat = view.scaled(*scale).render(
        result.token_map_of(3).flatten(), pixels.shape[:2]
    )
    assert_drawn(pixels, heat, OPACITY * strength_of(result, 3))
    page.find("#boxes").click()
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.run(overflow) <= 0
    assert page.complaints() == []


@pytest.mark.parametrize("size", SMALL)
def test_figures_regions_and_files_of_few_pixels(
    size: tuple[int, int], tmp_path: Path
) -> None:
    result: Any = on_image_of(size)
    for plot in ("tokens", "words", "sequence", "layers"):
        file = io.BytesIO()
        getattr(result, f"plot_{plot}")()[0].savefig(file, dpi=50)
        assert max(Image.open(file).size) < 1500
    for word in (None, 0, 3):
        heat, regions = result.pixel_map(word), result.regions(word, 0.3)
        covered = torch.zeros(size, dtype=torch.bool)
        for region in regions:
            covered |= region.mask
        assert torch.equal(covered, heat > 0.3)
    result.save(tmp_path / "x")
    assert VLMAttributionResult.load(tmp_path / "x") == result


def test_pages_and_figures_of_48_million_pixels_are_small() -> None:
    none_kept: dict[str, Any] = {"layer_attr": None, "layer_indices": None}
    result: Any = on_image_of((6000, 8000), **none_kept)
    assert len(result.to_html()) < 150_000
    _, axes = result.plot_tokens()
    assert axes.flat[0].images[0].get_array().shape[:2] == (768, 1024)
