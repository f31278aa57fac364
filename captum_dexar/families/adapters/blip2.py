"""BLIP-2 and InstructBLIP: queries of a Q-Former."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.prompt_reuse import Reuse
from captum_dexar.families.shared.queries import found_places, QueryAttention
from captum_dexar.families.shared.query_square import QuerySquareAdapter


class Blip2Adapter(QuerySquareAdapter):
    """In InstructBLIP the queries also read the instruction, which reads them.

    The language model is a decoder, or T5. The keys of T5's decoder are positions of
    the encoder's output, where self-attention has already mixed queries and prompt.
    """

    name: ClassVar[str] = "BLIP-2, InstructBLIP"
    model_types: ClassVar[tuple[str, ...]] = ("blip-2", "instructblip")
    processor_types: ClassVar[tuple[str, ...]] = (
        "Blip2Processor",
        "InstructBlipProcessor",
    )
    reader: ClassVar[str] = "the Q-Former"
    boxes_checked: ClassVar[str] = found_places(
        "9 of 24 queries (16 cells; InstructBLIP: 8 of 24; with T5: 7 of 24 and 6 of "
        "24)"
    )
    largest_error: ClassVar[float] = 5e-5

    def is_encoder_decoder(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.is_encoder_decoder`."""
        return bool(config.text_config.is_encoder_decoder)

    def cross_attention_of(self, config: Any) -> str | None:
        """See :meth:`FamilyAdapter.cross_attention_of`."""
        return "layer.1.EncDecAttention" if self.is_encoder_decoder(config) else None

    def probabilities_at_softmax(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.probabilities_at_softmax`; attention modules of T5
        return their position bias in the place of the probabilities."""
        return self.is_encoder_decoder(config)

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """See :meth:`FamilyAdapter.reuse`; the model runs with an image only."""
        return "full_pass"

    def attentions(self, model: Any) -> list[QueryAttention]:
        """See :meth:`QueryAdapter.attentions`."""
        found = []
        for layer in model.qformer.encoder.layer:
            found.append(QueryAttention(layer.attention.attention, "queries"))
            if layer.has_cross_attention:
                crossing = layer.crossattention.attention
                found.append(QueryAttention(crossing, "patches"))
        return found
