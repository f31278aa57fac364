"""What a decoder is: its layers, its logit lens, its state and its memory."""

from captum_dexar.model.decoder import Decoder, find_decoder
from captum_dexar.model.layers import (
    find_layers,
    hidden_argument,
    hidden_of,
    layer_indices,
    modules_of_layers,
    with_hidden,
)
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.memory import recorded_bytes, tokens_at_once
from captum_dexar.model.precision import widened
from captum_dexar.model.state import (
    check_model_state,
    device_of,
    is_offloaded,
    kept_state,
    loaded_weights,
)
from captum_dexar.model.target_logits import GrowingLogits, TargetLogits

__all__ = [
    "check_model_state",
    "Decoder",
    "device_of",
    "find_decoder",
    "find_layers",
    "GrowingLogits",
    "hidden_argument",
    "hidden_of",
    "is_offloaded",
    "kept_state",
    "layer_indices",
    "loaded_weights",
    "LogitLens",
    "modules_of_layers",
    "recorded_bytes",
    "TargetLogits",
    "tokens_at_once",
    "widened",
    "with_hidden",
]
