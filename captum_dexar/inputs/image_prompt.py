"""An image and a prompt as one Captum input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from captum_dexar.families import (
    adapter_for_config,
    adapter_for_processor,
    FamilyAdapter,
    given_layout,
)
from captum_dexar.inputs.image_tokens import ImageTokenInput
from captum_dexar.inputs.places import derived_places, DerivedPlaces
from captum_dexar.inputs.processor_watch import watched_image_processors
from captum_dexar.model.state import device_of
from PIL import Image, ImageOps
from torch import nn, Tensor


class ImagePromptInput(ImageTokenInput):
    r"""An image and a question, ready for :class:`VLMAttribution`.

    A Captum ``ImageMaskInput`` whose interpretable features are the image tokens. Each
    feature is a box of the original image. It also works with Captum's own
    ``LLMAttribution``, whose result then has the same columns. Call its ``attribute``
    with ``use_cached_outputs=False``: with captum 0.9 and transformers 5.23 its cached
    forward pass does not see the perturbed pixels.

    Args:
        image (PIL.Image.Image or list of PIL.Image.Image): the image, or several in the
            order of their placeholders. Each is rotated according to its EXIF tag and
            converted to RGB from palette, grey (8 or 16 bits), CMYK or RGBA. The
            originals are not changed.
        prompt (str): a plain question, which is wrapped in the model's chat template
            (or the family's raw prompt); or a complete prompt with one image
            placeholder per image, which is used unchanged.
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): if given, inputs are created on its device, and its
            configuration takes precedence over the processor's. Default: None
        grid (tuple of int, optional): rows and columns of the image tokens over the
            whole image, for an unsupported family. Default: None, the family's grid
        boxes (Tensor, optional): each image token's box, ``(N, 4)`` as y0, x0, y1, x1
            in pixels of the original image, for an unsupported family.
            Default: None, the family's boxes

    Attributes:
        layout (ImageLayout): the image tokens' grid and boxes
        prompt (str): the whole prompt, image placeholders included

    Raises:
        TypeError: an image is not a PIL image, the prompt is not a string, or the
            processor belongs to no supported family.
        ValueError: an image is empty or has floating point pixels, the number of
            placeholders is not the number of images, the image tokens do not fill the
            grid, or the number of boxes is not the number of image tokens.

    Examples::

        >>> from captum_dexar import ImagePromptInput
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> inp.prompt
        'USER: <image>\nDescribe it. ASSISTANT:'
        >>> inp.n_itp_features
        144
    """

    def __init__(
        self,
        image: Image.Image | Sequence[Image.Image],
        prompt: str,
        processor: Any,
        model: nn.Module | None = None,
        *,
        grid: tuple[int, int] | None = None,
        boxes: Tensor | None = None,
    ) -> None:
        config: Any = None if model is None else getattr(model, "config", None)
        if model is None:
            adapter = adapter_for_processor(processor)
        else:
            adapter = adapter_for_config(config)
        images = [
            rgb_image(one)
            for one in (image if isinstance(image, (list, tuple)) else [image])
        ]
        text = _whole_prompt(prompt, processor, adapter, len(images))

        def make_inputs(images: Any) -> Any:
            made = adapter.process(images, text, processor)
            return made if model is None else made.to(device_of(model))

        with watched_image_processors() as calls:
            model_inputs = make_inputs(images[0] if len(images) == 1 else images)
        num_tokens = adapter.num_image_tokens(model_inputs, processor, config)
        sizes = [(one.height, one.width) for one in images]
        if grid is None and boxes is None:
            places = derived_places(
                adapter,
                model_inputs,
                num_tokens,
                images,
                calls,
                processor=processor,
                config=config,
            )
        else:
            layout = given_layout(num_tokens, sizes, grid=grid, boxes=boxes)
            places = DerivedPlaces(layout, are_certain=True)
        super().__init__(images, places.layout, make_inputs, model_inputs=model_inputs)
        self.prompt = text
        self.places = places
        self.places_are_given = grid is not None or boxes is not None


def _whole_prompt(
    prompt: Any, processor: Any, adapter: FamilyAdapter, num_images: int
) -> str:
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a string, got {type(prompt).__name__}.")
    if num_images == 0:
        raise ValueError("There is no image: the list of images is empty.")
    placeholder = adapter.placeholder(processor)
    count = prompt.count(placeholder) if placeholder else 0
    if count == 0:
        return adapter.prompt(prompt, processor, num_images)
    if count != num_images:
        raise ValueError(
            f"The prompt holds the image placeholder {placeholder!r} {count} times, "
            f"but the number of images is {num_images}. Write it once per image; the "
            "processor repeats it as needed."
        )
    return prompt


def rgb_image(image: Any) -> Image.Image:
    """The image, upright (EXIF) and in RGB; raises as :class:`ImagePromptInput`."""
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image must be a PIL image, got {type(image).__name__}. Open a file with "
            "PIL.Image.open(path)."
        )
    if image.width == 0 or image.height == 0:
        raise ValueError(
            f"The image has no pixel: it is {image.width} wide and {image.height} high."
        )
    if image.mode == "F":
        raise ValueError(
            "The image has floating point pixels of unknown range. Scale them "
            "to 0..255 and convert it with image.convert('L')."
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        # PIL clips 16-bit grey levels at 255 rather than scaling them.
        levels = np.asarray(upright).astype(np.int64)
        if levels.max() > 255:
            levels = levels.clip(0, 65535) // 257
        upright = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return upright if upright.mode == "RGB" else upright.convert("RGB")
