"""Gradients of each layer's logit-lens reading with respect to its attention."""

from captum_dexar.attention_gradients.autograd_twin import AutogradTwin
from captum_dexar.attention_gradients.closed_form import ClosedForm
from captum_dexar.attention_gradients.decoder import (
    Decoder,
    find_decoder,
    find_layers,
    layer_indices,
    LensMismatch,
)
from captum_dexar.attention_gradients.gradients import (
    AttentionGradients,
    LayerGradients,
)
from captum_dexar.attention_gradients.live_gradients import LiveGradients
from captum_dexar.attention_gradients.target_logits import TargetLogits

__all__ = [
    "AttentionGradients",
    "AutogradTwin",
    "ClosedForm",
    "Decoder",
    "LayerGradients",
    "LensMismatch",
    "LiveGradients",
    "TargetLogits",
    "find_decoder",
    "find_layers",
    "layer_indices",
]
