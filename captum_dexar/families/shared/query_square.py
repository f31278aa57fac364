"""Queries that read a square of patches, with a class token before them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.resizing import resized_crop
from captum_dexar.families.shared.plain_prompt import SingleImageAdapter
from captum_dexar.families.shared.queries import QueryAdapter
from captum_dexar.maps.layout import View


class QuerySquareAdapter(SingleImageAdapter, QueryAdapter):
    """One image a prompt; the model runs with it only, so that nothing is replayed."""

    replayable: ClassVar[bool] = False
    steps_run_on: ClassVar[str] = "one full pass"

    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_vision_tokens`."""
        patch = int(config.vision_config.patch_size)
        side = int(inputs["pixel_values"].shape[-1]) // patch
        return 1 + side * side

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        patch = int(image.config.vision_config.patch_size)
        side = int(image.inputs["pixel_values"].shape[-1]) // patch
        rectangle = None
        if image.size is not None:
            seen = (side * patch, side * patch)
            rectangle = resized_crop(image.image_processor, image.size, seen)
        view = View("full", (side, side), rectangle, start=1)
        return ImageTokens(1 + side * side, (view,))
