"""Captum's image input with one interpretable feature per image token."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import ImageMaskInput
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.maps.segments import SegmentLayout
from PIL import Image
from torch import Tensor

# What an input knows of its images, apart from the processor.
_IMAGE_FIELDS = (
    "image",
    "images",
    "layout",
    "baseline",
    "mask",
    "mask_list",
    "mask_id_to_idx",
    "n_itp_features",
    "values",
)


class ImageTokenInput(ImageMaskInput):
    """An ``ImageMaskInput`` whose features are the boxes of the image tokens.

    Pixels that no token covers belong to no feature: they are never perturbed and get
    no attribution. Every image token with a place is a feature, even if its box holds
    no pixel's centre, so columns and tokens always match. Boxes of several views
    (tiles, a thumbnail) overlap: a pixel is perturbed with any of its features and
    gets the sum of their attributions, as with Captum's own ``mask_list``. With a
    :class:`SegmentLayout` the features are the segments of a mask instead.

    Args:
        images (sequence of PIL.Image.Image): the original images, RGB
        layout (ImageLayout): places of their image tokens
        processor_fn (Callable, optional): converts the image (or the list, if there are
            several) to model inputs. Default: the identity
        baseline (tuple of int, optional): RGB value of perturbed pixels.
            Default: (255, 255, 255)
        model_inputs (Any, optional): the output of ``processor_fn``, if it has already
            been computed. Default: None

    Attributes:
        images (list of PIL.Image.Image): the original images
        image (PIL.Image.Image): the first image, which Captum's plots use
    """

    def __init__(
        self,
        images: Sequence[Image.Image],
        layout: ImageLayout,
        processor_fn: Callable[[Any], Any] | None = None,
        baseline: tuple[int, int, int] = (255, 255, 255),
        model_inputs: Any = None,
    ) -> None:
        self.images = list(images)
        processor_fn = processor_fn or _unprocessed
        if model_inputs is None:
            model_inputs = processor_fn(one_or_all(self.images))
        # With a mask, Captum would sort the numbers of all pixels to find the features.
        super().__init__(
            self.images[0],
            mask_list=[],
            baseline=baseline,
            processor_fn=lambda image: model_inputs,
        )
        self.mask = layout.token_of_pixel()
        self.processor_fn = processor_fn
        self.layout = layout
        self.n_itp_features = len(layout.placed)
        self.mask_id_to_idx = {token: token for token in range(self.n_itp_features)}
        self.values = token_names(layout)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """Model inputs with the boxes of absent features painted over.

        Args:
            perturbed_tensor (Tensor, optional): ``(1, N)``, 0 where a feature is
                absent. Default: None, all are present
        """
        if perturbed_tensor is None:
            # A copy, as what is changed in it would change what is explained.
            return copy.deepcopy(self.original_model_inputs)
        is_absent = (perturbed_tensor[:1] == 0).cpu()
        painted = []
        for index, image in enumerate(self.images):
            pixels = np.array(image)
            pixels[self.layout.painted(is_absent, index)[0].numpy() > 0] = self.baseline
            painted.append(Image.fromarray(pixels))
        return self.processor_fn(one_or_all(painted))

    def without_processor(self) -> "ImageTokenInput":
        """The same images and features; its model inputs are the images.

        It refers to neither processor nor model, and can be pickled.
        """
        plain = ImageTokenInput.__new__(ImageTokenInput)
        for name in _IMAGE_FIELDS:
            setattr(plain, name, getattr(self, name))
        plain.processor_fn = _unprocessed
        plain.original_model_inputs = one_or_all(self.images)
        return plain

    def get_mask_list(self) -> list[Tensor]:
        """The mask of each feature on the first image."""
        every_feature = torch.eye(self.n_itp_features, dtype=torch.bool)
        return list(self.layout.painted(every_feature) > 0)

    def format_pixel_attr(self, itp_attr: Tensor) -> Tensor:
        """Paints the values on the first image, ``(1, N)`` to ``(1, H, W)``."""
        return self.layout.painted(itp_attr)


def one_or_all(images: list[Image.Image]) -> Any:
    """The image as processors take it: by itself if it is the only one."""
    return images[0] if len(images) == 1 else images


def _unprocessed(images: Any) -> Any:
    return images


def token_names(layout: ImageLayout) -> list[str]:
    """A name for each image token with a place: its view, row and column; or the names
    of an image's segments."""
    if isinstance(layout, SegmentLayout):
        return list(layout.names)
    names = []
    count = Counter((view.image, view.name) for view in layout.views)
    seen: Counter[tuple[int, str]] = Counter()
    has_several = layout.num_images > 1
    for view in layout.views:
        kind = view.image, view.name
        name = f"{view.name}{seen[kind]}" if count[kind] > 1 else view.name
        seen[kind] += 1
        if has_several:
            name = f"image{view.image} {name}"
        rows, columns = view.grid
        names += [f"{name}[{r},{c}]" for r in range(rows) for c in range(columns)]
    return names


def display_input(
    image: Image.Image, layout: ImageLayout, max_side: int = 448
) -> ImageTokenInput:
    """A downscaled copy: Captum's heatmap builds a full-size mask for each feature."""
    scale = min(1.0, max_side / max(image.size))
    if scale == 1.0:
        return ImageTokenInput([image], layout)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return ImageTokenInput(
        [image.resize((width, height))], layout.resized(((height, width),))
    )
