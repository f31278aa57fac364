"""T5Gemma 2, an encoder-decoder whose encoder reads images as Gemma 3 does."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.adapters.gemma3 import Gemma3Adapter
from captum_dexar.families.geometry.grids import patch_of
from captum_dexar.maps.layout import Size


class T5Gemma2Adapter(Gemma3Adapter):
    """Gemma 3's tokens, which the encoder reads with the prompt.

    One softmax of each decoder layer covers the decoder's own tokens and all of the
    encoder's. Text is whatever is no image token in either.
    """

    name: ClassVar[str] = "T5Gemma 2"
    model_types: ClassVar[tuple[str, ...]] = ("t5gemma2",)
    processor_types: ClassVar[tuple[str, ...]] = ()
    shared_processors: ClassVar[tuple[str, ...]] = ("Gemma3Processor",)
    largest_error: ClassVar[float] = 5e-5
    required_inputs: ClassVar[tuple[str, ...]] = ()
    steps_run_on: ClassVar[str] = "the encoder's output"

    def num_encoder_keys(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`FamilyAdapter.num_encoder_keys`."""
        return int(inputs["input_ids"].shape[1])

    def probabilities_at_softmax(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.probabilities_at_softmax`; attention modules return
        parts of them."""
        return True

    def decoder_start(self, config: Any) -> int:
        """See :meth:`FamilyAdapter.decoder_start`."""
        return int(config.decoder.bos_token_id)

    def vision_settings(self, config: Any) -> Any:
        """See :meth:`Gemma3Adapter.vision_settings`."""
        return config.encoder

    def pixel_patch(self, config: Any) -> Size | None:
        """See :meth:`FamilyAdapter.pixel_patch`."""
        return patch_of(config.encoder)
