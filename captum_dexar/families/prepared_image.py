"""One image of a prompt: what is known about it, and the places of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.maps.layout import Rectangle, Size, View


@dataclass(frozen=True)
class ImageTokens:
    """The image tokens of one image.

    Attributes:
        count (int): their number, including those without a place
        views (tuple of View): their places, in key order; ``start`` counts from the
            image's first token
    """

    count: int
    views: tuple[View, ...]


@dataclass(frozen=True)
class PreparedImage:
    """What is known about one image when its tokens are placed.

    At least one of ``processor`` and ``config`` is known.

    Attributes:
        index (int): the image's number within the prompt
        inputs (Mapping): the model's inputs for the whole prompt, one example
        size (tuple of int or None): height and width of the original image
        image_processor (BaseImageProcessor or None): what prepared the image, with the
            settings that it did this with. They are read; it is run again where it
            keeps a result to itself.
        processor (ProcessorMixin or None): the processor it is part of
        config (PreTrainedConfig or None): the model's configuration
        remaining_tokens (int): image tokens of the prompt that belong to this image or
            to later ones
        num_images (int or None): number of images of the prompt, if known
        image (Any): the image that the image processor was given, if known
    """

    index: int
    inputs: Mapping[str, Any]
    size: Size | None
    image_processor: Any
    processor: Any
    config: Any
    remaining_tokens: int
    num_images: int | None = None
    image: Any = None

    def whole(self) -> Rectangle | None:
        """The rectangle of the whole original image, if its size is known."""
        if self.size is None:
            return None
        return (0.0, 0.0, float(self.size[0]), float(self.size[1]))

    def entry(self, name: str) -> Any:
        """This image's row of a model input that has one row per image, as numbers.

        Raises:
            ValueError: The input has fewer rows than the prompt has images.
        """
        rows = torch.as_tensor(self.inputs[name])
        if self.index >= len(rows):
            raise ValueError(
                f"{name} describes {len(rows)} images, but the prompt has more image "
                "tokens than these make. Prepare images and prompt together with the "
                "processor that belongs to the model."
            )
        return rows[self.index].tolist()
