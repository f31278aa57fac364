"""An image processor with the settings of one call as its own."""

import copy
from collections.abc import Mapping
from typing import Any

from captum_dexar.compatibility import image_settings

# They say how the result is to be returned, not what is done to the image.
OF_RESULT = ("return_tensors", "device")


def with_settings(image_processor: Any, settings: Mapping[str, Any]) -> Any:
    """A copy whose stored settings are those of a call.

    Its attributes can be read, and it can be called: both then are as in that call.
    """
    copied = copy.copy(image_processor)
    for name, value in settings.items():
        if name not in OF_RESULT:
            setattr(copied, name, value)
    return copied


def with_stored_settings(processor: Any) -> Any:
    """The image processor, as a processor calls it when the call says nothing else.

    A processor's own settings take precedence over its image processor's.
    """
    image_processor = getattr(processor, "image_processor", processor)
    if image_processor is None or image_processor is processor:
        return image_processor
    return with_settings(image_processor, image_settings(processor))
