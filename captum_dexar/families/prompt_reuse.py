"""What the decoding steps of an answer are run on."""

from typing import Any, Literal

from torch import Tensor

# Where the steps are run: "replay" runs them on a cache of the prompt without its last
# token, "full_pass" runs prompt and answer in one pass, and "encoder" runs the decoder
# on the encoder's output. LayerDexAR does not run the steps of an answer that it has
# generated token by token: their passes are recorded.
Reuse = Literal["replay", "full_pass", "encoder"]

# Kinds of layers whose cache can be cut back by some tokens; that of a recurrent layer
# can't.
CROPPABLE_LAYER_TYPES = {
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "conv",
}


def can_be_cropped(input_ids: Tensor, config: Any) -> bool:
    """Whether a cache of a prompt can be cut back to before its last token.

    Args:
        input_ids (Tensor): the prompt, ``(batch, tokens)``
        config (PreTrainedConfig): the model's configuration
    """
    # An image token may attend to later ones, and needs more than its id to be run.
    image_token_id = getattr(config, "image_token_id", None)
    if image_token_id in input_ids[:, -1].tolist():
        return False
    layer_types = getattr(config.get_text_config(decoder=True), "layer_types", None)
    return set(layer_types or ()) <= CROPPABLE_LAYER_TYPES
