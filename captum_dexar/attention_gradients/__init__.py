"""Gradients of each layer's logit-lens reading with respect to its attention."""

from captum_dexar.attention_gradients.autograd_twin import AutogradTwin
from captum_dexar.attention_gradients.closed_form import ClosedForm
from captum_dexar.attention_gradients.generated_gradients import GeneratedGradients
from captum_dexar.attention_gradients.gradients import (
    AttentionGradients,
    LayerGradients,
)
from captum_dexar.attention_gradients.live_graphs import LiveGraphs
from captum_dexar.attention_gradients.recorded_gradients import (
    NotRecorded,
    RecordedGradients,
)

__all__ = [
    "AttentionGradients",
    "AutogradTwin",
    "ClosedForm",
    "GeneratedGradients",
    "LayerGradients",
    "LiveGraphs",
    "NotRecorded",
    "RecordedGradients",
]
