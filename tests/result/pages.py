"""Results for pages, and what a canvas must show of them."""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.visualization.page.rendering import FAINTEST
from PIL import Image
from tests.helpers.browser import OpenPage

# Height and width within the limits of a canvas, so that its pixels are the image's.
SIZE = (400, 600)
OPACITY = 0.85
FloatArray = npt.NDArray[np.floating[Any]]
Open = Callable[[str], OpenPage]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A smooth picture with grain, as hard to compress as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    grain = generator.normal(0, 4, (*size, 3))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def made(
    texts: tuple[str, ...] = ("a", "violet", "circle", "."),
    layout: ImageLayout | None = None,
    **changes: Any,
) -> VLMAttributionResult:
    """One token a word on a grid of 4 x 6, which leaves 50 columns unseen."""
    if layout is None:
        view = View("full", (4, 6), (0.0, 25.0, 400.0, 575.0))
        layout = ImageLayout(24, (view,), (SIZE,))
    columns = len(layout.placed)
    generator = torch.Generator().manual_seed(len(texts))
    number = len(texts)
    layer_attr = torch.rand(number, 3, columns, generator=generator)
    token_attr = layer_attr.sum(1)
    fields: dict[str, Any] = {
        "output_tokens": list(texts),
        "answer": " ".join(texts),
        "target_ids": torch.arange(number),
        "token_attr": token_attr,
        "seq_attr": torch.rand(columns, generator=generator),
        "token_weights": torch.linspace(0, 2, number),
        "token_log_probs": -torch.rand(number, generator=generator),
        "layer_attr": layer_attr,
        "layer_indices": [0, 1, 4],
        "layout": layout,
        "images": [
            picture(size, index) for index, size in enumerate(layout.image_sizes or ())
        ],
        "method": "Layer DEX-AR",
    }
    return VLMAttributionResult(**{**fields, **changes})


def signed(**changes: Any) -> VLMAttributionResult:
    generator = torch.Generator().manual_seed(1)
    attr = torch.randn(4, 24, generator=generator)
    fields: dict[str, Any] = {
        "token_attr": attr,
        "seq_attr": attr.sum(0),
        "token_weights": None,
        "layer_attr": None,
        "layer_indices": None,
        "method": "Integrated Gradients",
    }
    return made(**{**fields, **changes})


def strength_of(result: VLMAttributionResult, *words: int) -> float:
    assert result.token_weights is not None
    weight = max(float(result.token_weights[word]) for word in words)
    share = weight / float(result.token_weights.max())
    return float(FAINTEST + (1 - FAINTEST) * np.sqrt(share))


def heat_of(pixels: npt.NDArray[np.uint8], opacity: float = OPACITY) -> FloatArray:
    """The absolute values of the map that was drawn, read from its opacity."""
    heat: FloatArray = (pixels[..., 3] / (255 * opacity)) ** (1 / 0.6)
    return heat


def assert_drawn(
    pixels: npt.NDArray[np.uint8],
    heat: Any,
    opacity: float = OPACITY,
    unseen: Any = None,
    is_signed: bool = False,
) -> None:
    """The canvas has this map, in the colours and the opacity that belong to it."""
    expected = np.asarray(heat, dtype=np.float64)
    seen = np.ones(expected.shape, bool) if unseen is None else ~np.asarray(unseen)
    assert pixels.shape[:2] == expected.shape
    drawn = heat_of(pixels, opacity)
    assert np.abs(drawn - np.abs(expected))[seen].max() < 0.015
    shares = 0.5 + 0.5 * expected if is_signed else expected
    name = "RdBu_r" if is_signed else "inferno"
    colours = matplotlib.colormaps[name](shares)[..., :3]
    # Faint colours are stored with fewer digits.
    opaque = seen & (pixels[..., 3] > 60)
    assert opaque.any()
    assert np.abs(pixels[..., :3] / 255 - colours)[opaque].max() < 0.03
    if not seen.all():
        assert (pixels[~seen][:, 3] == 200).all()
        assert len(np.unique(pixels[~seen], axis=0)) == 2


def assert_shows(page: OpenPage, result: VLMAttributionResult, *words: int) -> None:
    """The canvas has the map of these words, or of the whole answer."""
    heat = result.pixel_map(list(words) or None)
    opacity = OPACITY * (strength_of(result, *words) if words else 1)
    assert_drawn(page.pixels(), heat, opacity, result.unseen_pixels)
