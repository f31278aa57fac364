"""Methods by name: what ``captum-dexar compare --methods`` takes.

Arguments that are not a method's own defaults are in its title, so that every figure
and table says what was run. Perturbation methods whose cost grows with the features
work on 6 x 6 patches of the image. Lime and Kernel SHAP are missing, as in Captum they
need scikit-learn, which is not installed with this package; in Python they run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import (
    Attribution,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from captum_dexar.baselines import (
    LayerAttention,
    LayerAttentionGradient,
    LayerAttentionRollout,
    LayerImageGradCam,
    LayerRandomMap,
    LayerTokenActivation,
    LayerUnfilteredDexAR,
    LayerUniformMap,
)
from captum_dexar.methods.layer_dexar import LayerDexAR
from captum_dexar.model.layers import find_layers
from captum_dexar.vlm_forward import VLMForward
from torch import nn, Tensor

ALL = "all"
_PATCHES = (6, 6)


@dataclass(frozen=True)
class NamedMethod:
    """A method and how it is called.

    Attributes:
        title (str): what tables and figures call it
        make (Callable): the method, of a model
        arguments (Mapping): arguments of its ``attribute``
    """

    title: str
    make: Callable[[nn.Module], Attribution]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _last_attention(model: nn.Module) -> Attribution:
    return LayerAttention(model, find_layers(model)[-1])


def _black(pixels: Tensor) -> Tensor:
    """The baseline of Integrated Gradients as Captum has it: zero everywhere."""
    return torch.zeros_like(pixels)


METHODS: dict[str, NamedMethod] = {
    "dexar": NamedMethod("DEX-AR", LayerDexAR),
    "dexar-read": NamedMethod(
        "DEX-AR, attention_power=0.5", LayerDexAR, {"attention_power": 0.5}
    ),
    "dexar-unfiltered": NamedMethod("DEX-AR without head filter", LayerUnfilteredDexAR),
    "attention-gradient": NamedMethod("Attention x gradient", LayerAttentionGradient),
    "attention": NamedMethod("Attention, all layers", LayerAttention),
    "attention-last": NamedMethod("Attention, last layer", _last_attention),
    "rollout": NamedMethod("Attention rollout", LayerAttentionRollout),
    "tam": NamedMethod("Token Activation Map", LayerTokenActivation),
    "grad-cam": NamedMethod("Grad-CAM (image tokens)", LayerImageGradCam),
    "saliency": NamedMethod("Saliency", lambda model: Saliency(VLMForward(model))),
    "input-x-gradient": NamedMethod(
        "Input x gradient", lambda model: InputXGradient(VLMForward(model))
    ),
    "ig": NamedMethod(
        "Integrated Gradients, 50 steps",
        lambda model: IntegratedGradients(VLMForward(model)),
        {"n_steps": 50},
    ),
    "gradient-shap": NamedMethod(
        "Gradient SHAP, 20 samples",
        lambda model: GradientShap(VLMForward(model)),
        {"n_samples": 20, "baselines": _black},
    ),
    "smooth-grad": NamedMethod(
        "SmoothGrad, 10 samples",
        lambda model: NoiseTunnel(Saliency(VLMForward(model))),
        {"nt_type": "smoothgrad", "nt_samples": 10, "stdevs": 0.1},
    ),
    "occlusion": NamedMethod(
        "Occlusion, 3 x 3 tokens", lambda model: Occlusion(VLMForward(model))
    ),
    "feature-ablation": NamedMethod(
        "Feature ablation", lambda model: FeatureAblation(VLMForward(model))
    ),
    "shapley": NamedMethod(
        "Shapley values, 5 samples, 6 x 6 patches",
        lambda model: ShapleyValueSampling(VLMForward(model)),
        {"n_samples": 5, "patches": _PATCHES},
    ),
    "random": NamedMethod("Random smooth map (chance)", LayerRandomMap),
    "uniform": NamedMethod("Uniform map (chance)", LayerUniformMap),
}
DEFAULT_METHODS = (
    "dexar",
    "dexar-read",
    "attention-gradient",
    "attention",
    "grad-cam",
    "ig",
    "occlusion",
)


def named_methods(
    names: Sequence[str], model: nn.Module
) -> dict[str, tuple[Attribution, Mapping[str, Any]]]:
    """Methods for :func:`captum_dexar.compare`, by title.

    Args:
        names (sequence of str): keys of ``METHODS``, in the order of the rows
        model (nn.Module): the vision-language model

    Raises:
        ValueError: a name is not known, given twice, or there is none.

    Example::

        >>> from captum_dexar.shapes import load_vlm
        >>> model, _ = load_vlm()
        >>> list(named_methods(["dexar", "saliency"], model))
        ['DEX-AR', 'Saliency']
    """
    check_names(names)
    chosen = [METHODS[name] for name in names]
    return {one.title: (one.make(model), one.arguments) for one in chosen}


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for names that :func:`named_methods` can't take."""
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(
            f"no method is called {', '.join(unknown) or 'nothing'}. There are: "
            f"{', '.join(METHODS)}; and {ALL}, which is every one of them."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given more than once.")
