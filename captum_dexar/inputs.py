"""What goes in: an image and a prompt, as model inputs with known image tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import ImageMaskInput
from captum_dexar.families import (
    adapter_for_config,
    adapter_for_processor,
    FamilyAdapter,
    given_layout,
)
from captum_dexar.image_tokens import ImageTokenInput
from captum_dexar.layout import ImageLayout
from captum_dexar.model_state import device_of
from captum_dexar.vlm_forward import joined_inputs
from PIL import Image, ImageOps
from torch import nn, Tensor


class ImagePromptInput(ImageTokenInput):
    r"""An image and a question, ready for :class:`VLMAttribution`.

    A Captum ``ImageMaskInput`` whose interpretable features are the image tokens: each
    stands for a box of the original image. It works in Captum's own
    ``LLMAttribution`` too, whose result then has the same columns as ours; call its
    ``attribute`` with ``use_cached_outputs=False``, because with captum 0.9 and
    transformers 5.23 its cached forward does not see the perturbed pixels.

    Args:

        image (PIL.Image.Image or list of them): the image, or several in the order of
            their placeholders. Each is rotated as its EXIF tag says and converted to
            RGB from palette, grey (8 or 16 bits), CMYK or RGBA; the original objects
            are not changed.
        prompt (str): a plain question, around which the model's chat template (or the
            family's raw prompt) is written; or a whole prompt that already holds the
            image placeholder, once for each image, which is taken as it is.
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): the model. With it, inputs are made on its device,
            and its configuration is believed before the processor's.
            Default: None
        grid (tuple of int, optional): rows and columns of the image tokens over the
            whole image, for a model of a family that is not known. Default: None,
            as the family has it
        boxes (Tensor, optional): each image token's box, ``(N, 4)`` as y0, x0, y1, x1
            in pixels of the original image, for a model of a family that is not known.
            Default: None, as the family has it

    Attributes:

        layout (ImageLayout): the image tokens' grid and boxes
        prompt (str): the whole prompt, image placeholders included

    Raises:

        TypeError: an image is no PIL image, the prompt no string, or the processor of
            no supported family.
        ValueError: an image has no pixel or floating point ones, the prompt does not
            hold one placeholder an image, the image tokens do not fill the grid, or
            there are not as many boxes as image tokens.

    Examples::

        >>> from captum_dexar import ImagePromptInput
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> inp.prompt
        'USER: <image>\nDescribe the image. ASSISTANT:'
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

        model_inputs = make_inputs(images[0] if len(images) == 1 else images)
        num_tokens = adapter.num_image_tokens(model_inputs, processor, config)
        sizes = [(one.height, one.width) for one in images]
        if grid is None and boxes is None:
            layout = adapter.layout(
                model_inputs,
                num_tokens,
                image_sizes=sizes,
                processor=processor,
                config=config,
            )
        else:
            layout = given_layout(num_tokens, sizes, grid=grid, boxes=boxes)
        super().__init__(images, layout, make_inputs, model_inputs=model_inputs)
        self.prompt = text
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
            f"but the number of images is {num_images}. Write it once an image; the "
            "processor repeats it as needed."
        )
    return prompt


def rgb_image(image: Any) -> Image.Image:
    """The image upright and in RGB, whatever kind of file it came from.

    Raises:
        TypeError: it is no PIL image.
        ValueError: it has no pixel, or floating point ones of unknown range.
    """
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
            "The image has floating point pixels, whose range is not known. Scale them "
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


def model_inputs_of(inp: Any, model: nn.Module) -> dict[str, Any]:
    """Model inputs of anything that :class:`VLMAttribution` takes.

    Args:
        inp (ImagePromptInput, ImageMaskInput or Mapping): the input
        model (nn.Module): the model, for its device and dtype

    Returns:
        Keyword arguments of the model for one prompt, on its device.

    Raises:
        TypeError: ``inp`` is of another kind.
        ValueError: there is no image or no prompt in it, it holds several prompts, or
            pixels that are not finite.
    """
    made = inp.to_model_input() if isinstance(inp, ImageMaskInput) else inp
    if not isinstance(made, Mapping):
        raise TypeError(
            "inp must be an ImagePromptInput, a captum ImageMaskInput whose "
            "processor_fn returns the processor's output, or that output itself (a "
            f"mapping), got {type(made).__name__}."
        )
    inputs = {
        key: prepared(value, model)
        for key, value in made.items()
        if value is not None and key != "labels"
    }
    config: Any = getattr(model, "config", None)
    check_image_and_prompt(inputs, adapter_for_config(config), config)
    batch = inputs["input_ids"].shape[0]
    if batch != 1:
        raise ValueError(f"inp must hold one prompt, got {batch}.")
    return inputs


def positional_inputs(
    inputs: Any, additional_forward_args: Any, model: nn.Module
) -> dict[str, Any]:
    """Model inputs of the arguments with which Captum's methods are called.

    Args:
        inputs (Tensor or tuple of Tensor): ``pixel_values``
        additional_forward_args (tuple): ``(input_ids, other_model_inputs)``
        model (nn.Module): the model, for its device and dtype

    Returns:
        Keyword arguments of the model, one example a row of ``pixel_values``.

    Raises:
        TypeError, ValueError: the arguments are of another form.
    """
    pixel_values = inputs
    if isinstance(inputs, tuple) and len(inputs) == 1:
        pixel_values = inputs[0]
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            "inputs must be the pixel_values tensor (ids belong to "
            f"additional_forward_args), got {type(inputs).__name__}."
        )
    arguments = additional_forward_args
    if not isinstance(arguments, tuple):
        arguments = (arguments,)
    if not 1 <= len(arguments) <= 2 or arguments[0] is None:
        raise ValueError(
            "additional_forward_args must be (input_ids, other_model_inputs), got "
            f"{'None' if arguments == (None,) else f'{len(arguments)} arguments'}."
        )
    others = arguments[1] if len(arguments) == 2 else None
    adapter = adapter_for_config(getattr(model, "config", None))
    joined = joined_inputs(pixel_values, arguments[0], others, adapter)
    model_inputs = {name: prepared(value, model) for name, value in joined.items()}
    model_inputs[adapter.pixel_input] = model_inputs[adapter.pixel_input].detach()
    check_image_and_prompt(model_inputs, adapter, model.config)
    return model_inputs


def layout_of(
    inp: Any,
    inputs: Mapping[str, Any],
    num_tokens: int,
    model: nn.Module,
    processor: Any,
    *,
    grid: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
) -> ImageLayout:
    """The places of an input's image tokens, as far as they can be known."""
    image_sizes = None
    if isinstance(inp, ImageTokenInput):
        image_sizes = inp.layout.image_sizes
    elif isinstance(inp, ImageMaskInput) and processor is not None:
        image_sizes = ((inp.image.height, inp.image.width),)
    if grid is not None or boxes is not None:
        return given_layout(num_tokens, image_sizes, grid=grid, boxes=boxes)
    if isinstance(inp, ImagePromptInput):
        return inp.layout
    config: Any = model.config
    return adapter_for_config(config).layout(
        inputs, num_tokens, image_sizes=image_sizes, processor=processor, config=config
    )


def check_places(
    inp: Any, inputs: Mapping[str, Any], layout: ImageLayout, model: nn.Module
) -> None:
    """Raises ValueError unless the image tokens lie where ``layout`` says."""
    if isinstance(inp, ImagePromptInput) and inp.places_are_given:
        return
    is_token_input = isinstance(inp, ImageTokenInput)
    adapter_for_config(model.config).check(
        model,
        inputs,
        layout,
        inp.images if is_token_input else [],
        inp.processor_fn if is_token_input else None,
    )


def prepared(value: Any, model: nn.Module) -> Any:
    """A tensor on the model's device, and in its dtype if it is a floating one.

    A tensor made under ``torch.inference_mode`` is copied, as autograd refuses it.
    """
    if not isinstance(value, Tensor):
        return value
    dtype = model_dtype(model) if value.is_floating_point() else value.dtype
    moved = value.to(device=device_of(model), dtype=dtype)
    return moved.clone() if moved.is_inference() else moved


def check_image_and_prompt(
    inputs: Mapping[str, Any], adapter: FamilyAdapter, config: Any
) -> None:
    """Raises ValueError unless there are ids, not padded behind, and finite pixels.

    The prompt of an encoder may be padded behind: the answer is not appended to it.
    """
    if inputs.get("pixel_values_videos") is not None:
        raise ValueError(
            "The input holds a video ('pixel_values_videos'), whose tokens have a "
            "place in time as well. Only images can be explained; give single frames."
        )
    if "input_ids" not in inputs:
        raise ValueError(
            f"The input has no 'input_ids', only {sorted(inputs)}. Give the "
            "processor's output for an image and a text."
        )
    pixels = inputs.get(adapter.pixel_input)
    if pixels is None:
        raise ValueError(
            f"The input has no image: {adapter.pixel_input!r} is missing from "
            f"{sorted(inputs)}. Give the processor an image as well as a text."
        )
    required = adapter.inputs_required_by(config)
    missing = [name for name in required if inputs.get(name) is None]
    if missing:
        raise ValueError(
            f"The input has no {' and no '.join(map(repr, missing))}, only "
            f"{sorted(inputs)}. Without it a model of the family {adapter.name} does "
            "not work as it was trained to. Pass on all that the processor returns."
        )
    if inputs["input_ids"].dim() != 2:
        raise ValueError(
            "input_ids must be (batch, tokens), got shape "
            f"{tuple(inputs['input_ids'].shape)}."
        )
    mask = inputs.get("attention_mask")
    is_padded_behind = (
        isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask[:, -1].all())
    )
    if is_padded_behind and not adapter.is_encoder_decoder(config):
        raise ValueError(
            "A prompt ends with padding, but the token after the last position is what "
            "is explained. Pad on the left: processor.tokenizer.padding_side = 'left'."
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ValueError(
            f"{adapter.pixel_input} holds NaN or infinite numbers, so that every "
            "attribution would be NaN. Check the image and how it was normalised."
        )


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's floating point weights."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
