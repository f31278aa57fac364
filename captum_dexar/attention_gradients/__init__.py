"""Gradients of each layer's logit-lens reading with respect to its attention."""

from captum_dexar.attention_gradients.attention_call import AttentionCall, encoder_first
from captum_dexar.attention_gradients.autograd_reference import AutogradReference
from captum_dexar.attention_gradients.closed_form import ClosedForm
from captum_dexar.attention_gradients.gradients import (
    AttentionGradients,
    LayerGradients,
)
from captum_dexar.attention_gradients.interception import intercepted_attention
from captum_dexar.attention_gradients.online import (
    OnlineGradients,
    PositionGraphs,
    RecordedGradients,
)
from captum_dexar.attention_gradients.user_changes import users_change

__all__ = [
    "AttentionCall",
    "AttentionGradients",
    "AutogradReference",
    "ClosedForm",
    "encoder_first",
    "intercepted_attention",
    "LayerGradients",
    "OnlineGradients",
    "PositionGraphs",
    "RecordedGradients",
    "users_change",
]
