"""What the steps of an answer are run on, where they are run.

``"replay"``: a cache of the prompt, without its last token; ``"full_pass"``: nothing,
prompt and answer are one pass; ``"encoder"``: the encoder's output, which all steps of
the decoder read. :class:`LayerDexAR` runs no step of an answer that was generated token
by token: its passes are recorded.
"""

from typing import Any, Literal

from torch import Tensor

Reuse = Literal["replay", "full_pass", "encoder"]

# Kinds of layers of whose state the last tokens can be taken out again; not so a
# recurrence.
LAYERS_THAT_GO_BACK = {
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "conv",
}


def can_go_back(input_ids: Tensor, config: Any) -> bool:
    """Whether a cache of a prompt can be cut back to before its last token.

    Args:
        input_ids (Tensor): the prompt, ``(batch, tokens)``
        config (PreTrainedConfig): the model's configuration
    """
    # An image token may attend to those behind it, and takes more than its id to run.
    image_token_id = getattr(config, "image_token_id", None)
    if image_token_id in input_ids[:, -1].tolist():
        return False
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None)
    return set(kinds or ()) <= LAYERS_THAT_GO_BACK
