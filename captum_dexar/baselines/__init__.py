"""Baseline methods with the interface of LayerDexAR."""

from captum_dexar.baselines.attention import LayerAttention
from captum_dexar.baselines.attention_gradient import LayerAttentionGradient
from captum_dexar.baselines.chance import LayerRandomMap, LayerUniformMap
from captum_dexar.baselines.grad_cam import LayerImageGradCam
from captum_dexar.baselines.rollout import LayerAttentionRollout
from captum_dexar.baselines.token_activation import LayerTokenActivation

__all__ = [
    "LayerAttention",
    "LayerAttentionGradient",
    "LayerAttentionRollout",
    "LayerImageGradCam",
    "LayerRandomMap",
    "LayerTokenActivation",
    "LayerUniformMap",
]
