"""BLIP-2 and InstructBLIP: queries of a Q-Former."""

from typing import Any, ClassVar

from captum_dexar.families.shared.queries import found_places, QueryAttention
from captum_dexar.families.shared.query_square import QuerySquareAdapter


class Blip2Adapter(QuerySquareAdapter):
    """In InstructBLIP the queries also read the instruction, which reads them."""

    name: ClassVar[str] = "BLIP-2, InstructBLIP"
    model_types: ClassVar[tuple[str, ...]] = ("blip-2", "instructblip")
    processor_types: ClassVar[tuple[str, ...]] = (
        "Blip2Processor",
        "InstructBlipProcessor",
    )
    reader: ClassVar[str] = "the Q-Former"
    boxes_checked: ClassVar[str] = found_places(
        "9 of 24 queries (16 cells; InstructBLIP: 8 of 24)"
    )

    def matches(self, config: Any) -> bool:
        """Those whose language model is an encoder-decoder are not supported."""
        is_ours = super().matches(config)
        return is_ours and not config.text_config.is_encoder_decoder

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        found = []
        for layer in model.qformer.encoder.layer:
            found.append(QueryAttention(layer.attention.attention, "queries"))
            if layer.has_cross_attention:
                crossing = layer.crossattention.attention
                found.append(QueryAttention(crossing, "patches"))
        return found
