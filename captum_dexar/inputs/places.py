"""Places of the image tokens, from what the processor really did to the images."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from captum_dexar.families import FamilyAdapter
from captum_dexar.families.image_settings import (
    OF_RESULT,
    with_settings,
    with_stored_settings,
)
from captum_dexar.families.painted_places import check_places
from captum_dexar.inputs.image_axes import check_axes
from captum_dexar.inputs.processor_watch import (
    ImageProcessorCall,
    watched_image_processors,
)
from captum_dexar.maps.layout import ImageLayout, Size
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class DerivedPlaces:
    """Places of the image tokens, and whether they need a check.

    Attributes:
        layout (ImageLayout): the places
        are_certain (bool): whether an image processor of transformers was seen to make
            these pixels out of these images. If not, the places are those that it would
            have led to, which :func:`check_places` compares with the pixels.
    """

    layout: ImageLayout
    are_certain: bool


def derived_places(
    adapter: FamilyAdapter,
    made: Mapping[str, Any],
    num_tokens: int,
    images: Sequence[Image.Image],
    calls: Sequence[ImageProcessorCall],
    *,
    processor: Any = None,
    config: Any = None,
    is_own_call: bool = True,
) -> DerivedPlaces:
    """Places that follow from the settings of an image processor's call.

    Args:
        adapter (FamilyAdapter): the adapter of the model's family
        made (Mapping): the model's inputs, as the processor made them
        num_tokens (int): image tokens of the prompt
        images (sequence of PIL.Image.Image): the original images
        calls (sequence of ImageProcessorCall): the calls seen while they were made
        processor (ProcessorMixin, optional): the processor, whose stored settings are
            used if no call was seen. Default: None
        config (PreTrainedConfig, optional): the model's configuration. Default: None
        is_own_call (bool, optional): whether the processor was called by this package,
            which leaves all settings as they are stored. Places that follow from other
            settings are not certain. Default: True
    """
    sizes = [(image.height, image.width) for image in images]
    pixels = made[adapter.pixel_input]
    of_images = [call for call in calls if len(call.images) == len(images)]
    makers = [call for call in of_images if _is_same(_made(call, adapter), pixels)]
    call = makers[-1] if makers else (of_images[-1] if len(of_images) == 1 else None)
    seen, image_processor = sizes, None
    given: Sequence[Any] = images
    if call is not None:
        image_processor = with_settings(call.image_processor, call.settings)
        given = call.images
        seen = [_size_of(image) for image in given]
    layout = adapter.layout(
        made,
        num_tokens,
        image_sizes=seen,
        images=given,
        processor=processor,
        image_processor=image_processor,
        config=config,
    )
    if seen != sizes and layout.is_located:
        layout = layout.resized(tuple(sizes))
    are_certain = (
        call is not None
        and call in makers
        and _is_of_transformers(call.image_processor)
        and all(_is_same_image(*pair) for pair in zip(call.images, images))
        and (is_own_call or _is_as_stored(call, processor))
    )
    return DerivedPlaces(layout, are_certain)


def checked_places(
    adapter: FamilyAdapter,
    places: DerivedPlaces,
    made: Mapping[str, Any],
    images: Sequence[Image.Image],
    process: Callable[[Any], Any],
    config: Any,
) -> DerivedPlaces:
    """Certain places: those that are not are measured.

    Raises:
        ValueError: The image tokens lie elsewhere, or it can't be measured.
    """
    is_needed = places.layout.is_located and not adapter.looks_for_places
    if is_needed and not places.are_certain:
        check_places(adapter, places.layout, made, images, process, config)
    return replace(places, are_certain=True)


def places_of_processor_fn(
    adapter: FamilyAdapter,
    inp: Any,
    images: Sequence[Image.Image],
    num_tokens: int,
    *,
    processor: Any,
    config: Any,
) -> ImageLayout:
    """Places of the tokens of an input whose ``processor_fn`` is the user's.

    It is called again, to see what it does.

    Raises:
        ValueError: It makes other inputs than before, the axes of an image can have two
            meanings, or the image tokens do not lie where its image processor puts
            them.
    """
    given, process = inp.to_model_input(), inp.processor_fn
    with watched_image_processors() as calls:
        made = process(images[0] if len(images) == 1 else list(images))
    for name in (adapter.pixel_input, adapter.prompt_input):
        if not _is_same(made.get(name), given.get(name)):
            raise ValueError(
                f"processor_fn makes another {name!r} for the same image when it is "
                "called again, so that the places of the image tokens on the image "
                "are not known. Remove what is random in it."
            )
    check_axes(images, calls)
    places = derived_places(
        adapter,
        made,
        num_tokens,
        images,
        calls,
        processor=processor,
        config=config,
        is_own_call=False,
    )
    return checked_places(adapter, places, made, images, process, config).layout


def _made(call: ImageProcessorCall, adapter: FamilyAdapter) -> Any:
    return call.made.get(adapter.pixel_input)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two model inputs are equal, apart from their device and dtype."""
    if one is other:
        return True
    try:
        one, other = torch.as_tensor(one), torch.as_tensor(other)
    except (TypeError, ValueError, RuntimeError):
        return False
    return torch.equal(one.to(other), other)


def _is_of_transformers(image_processor: Any) -> bool:
    """Whether it is of a class of transformers, with all methods of that class."""
    kind = type(image_processor)
    replaced = [n for n in vars(image_processor) if callable(getattr(kind, n, None))]
    if replaced or not kind.__module__.startswith("transformers."):
        return False
    methods = [
        method
        for base in kind.__mro__
        if base.__module__.startswith("transformers.")
        for method in vars(base).values()
    ]
    # A method may have been replaced in the class.
    return all(
        method.__module__.startswith("transformers.")
        for method in filter(inspect.isfunction, methods)
    )


def _is_as_stored(call: ImageProcessorCall, processor: Any) -> bool:
    """Whether the settings of a call are those that the processor has stored."""
    stored = with_stored_settings(processor)
    return all(
        getattr(stored, name, None) == value
        for name, value in call.settings.items()
        if name not in OF_RESULT
    )


def _size_of(image: Any) -> Size:
    """Height and width of an image in any form that image processors take."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = tuple(int(side) for side in image.shape)
    if len(shape) == 3:
        shape = shape[:2] if shape[2] in (1, 3, 4) else shape[1:]
    return shape[-2], shape[-1]


def _is_same_image(seen: Any, original: Image.Image) -> bool:
    """Whether an image processor was given the original image, in RGB."""
    if seen is original:
        return True
    pixels = np.asarray(seen.cpu() if isinstance(seen, Tensor) else seen)
    expected = np.asarray(original.convert("RGB"))
    if pixels.shape != expected.shape:
        expected = np.moveaxis(expected, -1, 0)
    return pixels.dtype == expected.dtype and np.array_equal(pixels, expected)
