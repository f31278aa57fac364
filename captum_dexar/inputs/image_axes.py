"""Images whose rows an image processor can take for channels."""

from collections.abc import Sequence

from captum_dexar.inputs.pictures import CHANNELS
from captum_dexar.inputs.processor_watch import ImageProcessorCall
from PIL import Image


def check_axes(
    images: Sequence[Image.Image], calls: Sequence[ImageProcessorCall]
) -> None:
    """Refuses an image that may have been read with rows and channels exchanged.

    As an array, an image of 3 x 40 pixels has the shape ``(3, 40, 3)``. Image
    processors that look at the shape take the first axis for the channels then. Those
    that are built on transformers' backends do not, if they get the PIL image itself.

    Args:
        images (sequence of PIL.Image.Image): the original images
        calls (sequence of ImageProcessorCall): the calls seen while they were prepared

    Raises:
        ValueError: An image has as many rows as images have channels, and no call shows
            that its axes were known.
    """
    thin = [image for image in images if image.height in CHANNELS]
    are_known = bool(calls) and all(
        isinstance(image, Image.Image) or call.settings.get("input_data_format")
        for call in calls
        for image in call.images
    )
    if not thin or are_known:
        return
    width, height = thin[0].size
    raise ValueError(
        f"The image is {height} pixels high and {width} wide. As an array it has as "
        "many rows as an image has channels, and its image processor may have taken "
        "the rows for channels. Enlarge it first: "
        f"image.resize(({2 * width}, {2 * height}))."
    )
