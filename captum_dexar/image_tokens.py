"""Captum's image input with one interpretable feature an image token."""

from collections.abc import Callable
from typing import Any

from captum.attr import ImageMaskInput
from captum_dexar.layout import ImageLayout
from PIL import Image
from torch import Tensor


class ImageTokenInput(ImageMaskInput):
    """An ``ImageMaskInput`` whose features are the boxes of the image tokens.

    Pixels that no token sees belong to no feature: they are never perturbed, and get no
    attribution. Every image token with a place is a feature, also where its box holds
    no pixel's centre, so that columns and tokens always agree.

    Args:
        image (PIL.Image.Image): the original image, RGB
        layout (ImageLayout): places of its image tokens
        processor_fn (Callable, optional): makes model inputs of an image.
            Default: the image itself
        baseline (tuple of int, optional): RGB value of perturbed pixels.
            Default: (255, 255, 255)
        model_inputs (Any, optional): what ``processor_fn`` makes of the image, if it
            has been run already. Default: it is run
    """

    def __init__(
        self,
        image: Image.Image,
        layout: ImageLayout,
        processor_fn: Callable[[Image.Image], Any] = lambda image: image,
        baseline: tuple[int, int, int] = (255, 255, 255),
        model_inputs: Any = None,
    ) -> None:
        super().__init__(
            image,
            mask=layout.token_of_pixel(),
            baseline=baseline,
            processor_fn=(
                processor_fn if model_inputs is None else lambda image: model_inputs
            ),
        )
        self.processor_fn = processor_fn
        self.layout = layout
        self.n_itp_features = len(layout.placed)
        self.mask_id_to_idx = {token: token for token in range(self.n_itp_features)}
        self.values = token_names(layout)

    def format_pixel_attr(self, itp_attr: Tensor) -> Tensor:
        """Paints one value a feature on the pixels, ``(1, N)`` to ``(1, H, W)``."""
        token_of_pixel = self.mask.long().to(itp_attr.device)
        painted: Tensor = itp_attr[..., token_of_pixel.clamp(min=0)]
        return painted.where(token_of_pixel >= 0, 0)


def token_names(layout: ImageLayout) -> list[str]:
    """A name for each image token with a place: its row and column."""
    return [
        f"{view.name}[{row},{column}]"
        for view in layout.views
        for row in range(view.grid[0])
        for column in range(view.grid[1])
    ]


def display_input(
    image: Image.Image, layout: ImageLayout, max_side: int = 448
) -> ImageTokenInput:
    """A small copy for Captum's heatmap, which makes one mask a feature and pixel."""
    scale = min(1.0, max_side / max(image.size))
    if scale == 1.0:
        return ImageTokenInput(image, layout)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return ImageTokenInput(
        image.resize((width, height)), layout.resized((height, width))
    )
