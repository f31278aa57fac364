"""What explaining an answer goes on from, once the model has generated it.

``"replay"``: the cache, cut back to the prompt's last token; all steps are run again on
it, in one pass. ``"two_phase"``: the prompt's last token is explained in the pass over
the prompt itself, and the further steps on the cache after it. ``"encoder"``: the
encoder's output, which all steps of the decoder read.
"""

from typing import Any, Literal

from torch import Tensor

Reuse = Literal["replay", "two_phase", "encoder"]

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
