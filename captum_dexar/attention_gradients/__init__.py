"""Gradients of each layer's logit-lens reading with respect to its attention."""

from captum_dexar.attention_gradients.autograd_reference import AutogradReference
from captum_dexar.attention_gradients.closed_form import ClosedForm
from captum_dexar.attention_gradients.gradients import (
    AttentionGradients,
    LayerGradients,
)
from captum_dexar.attention_gradients.live_graphs import LiveGraphs
from captum_dexar.attention_gradients.online_gradients import OnlineGradients
from captum_dexar.attention_gradients.recorded_gradients import RecordedGradients

__all__ = [
    "AttentionGradients",
    "AutogradReference",
    "ClosedForm",
    "OnlineGradients",
    "LayerGradients",
    "LiveGraphs",
    "RecordedGradients",
]
