"""Kosmos-2.5: queries that read patches of a page, and each other, once."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.adapters.kosmos2 import Kosmos2Adapter
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.shared.queries import found_places
from captum_dexar.maps.layout import ImageLayout, View
from torch import nn, Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


class Kosmos25Adapter(Kosmos2Adapter):
    """As many patches of the whole image as are allowed. Unused ones follow, which
    queries read too; they have no place.

    Each patch begins with its row and column, counted from one.
    """

    name: ClassVar[str] = "Kosmos-2.5"
    model_types: ClassVar[tuple[str, ...]] = ("kosmos-2.5",)
    processor_types: ClassVar[tuple[str, ...]] = ("Kosmos2_5Processor",)
    boxes_checked: ClassVar[str] = found_places("5 of 24 queries (16 cells)")
    pixel_input: ClassVar[str] = "flattened_patches"

    def num_vision_tokens(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`QueryAdapter.num_vision_tokens`."""
        return int(inputs[self.pixel_input].shape[1])

    def encode(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """See :meth:`QueryAdapter.encode`; this model has no method for it."""
        states = model.vision_model(inputs[self.pixel_input])[0]
        made = model.image_to_text_projection(nn.functional.normalize(states, dim=-1))
        return BaseModelOutputWithPooling(pooler_output=made[0])

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        places = image.inputs[self.pixel_input][0, :, :2]
        rows, columns = (int(places[:, axis].max()) for axis in (0, 1))
        view = View("full", (rows, columns), image.whole())
        return ImageTokens(self.num_vision_tokens(image.inputs, image.config), (view,))

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """See :meth:`FamilyAdapter.token_of_pixel_input`.

        Raises:
            TypeError: Always: with its pixels a patch would lose its place.
        """
        raise self.unknown_pixels(inputs[self.pixel_input].shape)
