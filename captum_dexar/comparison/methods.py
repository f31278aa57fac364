"""The table of named methods, for ``compare``, ``evaluate`` and the command line.

Titles include the arguments that differ from a method's defaults, because they label
figures and tables. Perturbation methods whose cost grows with the number of features
use 6 x 6 patches of the image. Lime and Kernel SHAP are not listed, because they need
scikit-learn, which is an optional dependency. Methods are imported lazily, so that the
names alone are cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from captum.attr import Attribution
    from torch import nn, Tensor

    Make = Callable[[nn.Module], Attribution]
    Layers = list[nn.Module]
    Choose = Callable[[Layers], Layers]


@dataclass(frozen=True)
class NamedMethod:
    """A method and its arguments.

    Attributes:
        title (str): its name in tables and figures
        make (Callable): makes the method for a model
        arguments (Mapping): arguments of its ``attribute``
    """

    title: str
    make: Make
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _on_layers(method: Any, model: nn.Module, choose: Choose | None) -> Attribution:
    """A method on all decoder layers, or on those that ``choose`` picks."""
    from captum_dexar.model import find_layers

    return method(model, None if choose is None else choose(find_layers(model)))


def _last(layers: Layers) -> Layers:
    return layers[-1:]


def _last_half(layers: Layers) -> Layers:
    return layers[len(layers) // 2 :]


def _dexar(choose: Choose | None = None) -> Make:
    def make(model: nn.Module) -> Attribution:
        from captum_dexar.methods.layer_dexar import LayerDexAR

        return _on_layers(LayerDexAR, model, choose)

    return make


def _baseline(name: str, choose: Choose | None = None) -> Make:
    def make(model: nn.Module) -> Attribution:
        from captum_dexar import baselines

        return _on_layers(getattr(baselines, name), model, choose)

    return make


def _token_activation(context: str) -> Make:
    def make(model: nn.Module) -> Attribution:
        from captum_dexar.baselines import LayerTokenActivation

        return LayerTokenActivation(model, context=context)

    return make


def _captum(name: str) -> Make:
    def make(model: nn.Module) -> Attribution:
        from captum import attr
        from captum_dexar.vlm_forward import VLMForward

        return getattr(attr, name)(VLMForward(model))

    return make


def _smooth_grad(model: nn.Module) -> Attribution:
    from captum.attr import NoiseTunnel

    return NoiseTunnel(_captum("Saliency")(model))


def _black(pixels: Tensor) -> Tensor:
    """The default baseline of Captum's Integrated Gradients: zero."""
    return pixels.new_zeros(pixels.shape)


_READ, _ALL_READ = {"attention_power": 0.5}, {"attention_power": 1.0}

METHODS: dict[str, NamedMethod] = {
    "dexar": NamedMethod("DEX-AR", _dexar()),
    "dexar-last-half": NamedMethod(
        "DEX-AR, last half of the layers", _dexar(_last_half)
    ),
    "dexar-unfiltered": NamedMethod(
        "DEX-AR without head filter", _dexar(), {"head_filter": False}
    ),
    "dexar-read": NamedMethod("DEX-AR, attention_power=0.5", _dexar(), _READ),
    "dexar-read-1": NamedMethod("DEX-AR, attention_power=1", _dexar(), _ALL_READ),
    "dexar-read-last-half": NamedMethod(
        "DEX-AR, last half of the layers, attention_power=0.5",
        _dexar(_last_half),
        _READ,
    ),
    "dexar-rivals": NamedMethod("DEX-AR, rivals=4", _dexar(), {"rivals": 4}),
    "attention-gradient": NamedMethod(
        "Attention x gradient", _baseline("LayerAttentionGradient")
    ),
    "attention": NamedMethod("Attention, all layers", _baseline("LayerAttention")),
    "attention-last": NamedMethod(
        "Attention, last layer", _baseline("LayerAttention", _last)
    ),
    "rollout": NamedMethod("Attention rollout", _baseline("LayerAttentionRollout")),
    "tam": NamedMethod("Token Activation Map", _token_activation("question")),
    "tam-all-text": NamedMethod(
        "Token Activation Map, all text tokens", _token_activation("all")
    ),
    "grad-cam": NamedMethod("Grad-CAM (image tokens)", _baseline("LayerImageGradCam")),
    "saliency": NamedMethod("Saliency", _captum("Saliency")),
    "input-x-gradient": NamedMethod("Input x gradient", _captum("InputXGradient")),
    "ig": NamedMethod(
        "Integrated Gradients, 50 steps",
        _captum("IntegratedGradients"),
        {"n_steps": 50},
    ),
    "gradient-shap": NamedMethod(
        "Gradient SHAP, 20 samples",
        _captum("GradientShap"),
        {"n_samples": 20, "baselines": _black},
    ),
    "smooth-grad": NamedMethod(
        "SmoothGrad, 10 samples",
        _smooth_grad,
        {"nt_type": "smoothgrad", "nt_samples": 10, "stdevs": 0.1},
    ),
    "occlusion": NamedMethod("Occlusion, 3 x 3 tokens", _captum("Occlusion")),
    "feature-ablation": NamedMethod("Feature ablation", _captum("FeatureAblation")),
    "shapley": NamedMethod(
        "Shapley values, 5 samples, 6 x 6 patches",
        _captum("ShapleyValueSampling"),
        {"n_samples": 5, "patches": (6, 6)},
    ),
    "random": NamedMethod("Random smooth map (chance)", _baseline("LayerRandomMap")),
    "uniform": NamedMethod("Uniform map (chance)", _baseline("LayerUniformMap")),
}
# The defaults of --methods. The evaluated ones need one forward pass per answer.
COMPARED = (
    "dexar",
    "dexar-rivals",
    "attention-gradient",
    "attention",
    "grad-cam",
    "ig",
    "occlusion",
)
EVALUATED = (
    "dexar",
    "dexar-last-half",
    "dexar-unfiltered",
    "dexar-read",
    "dexar-read-1",
    "dexar-read-last-half",
    "dexar-rivals",
    "attention-gradient",
    "attention",
    "attention-last",
    "rollout",
    "tam",
    "tam-all-text",
    "random",
    "uniform",
)
# Names that stand for several methods.
GROUPS: dict[str, tuple[str, ...]] = {"one-pass": EVALUATED, "all": tuple(METHODS)}


def named_methods(
    names: Sequence[str], model: nn.Module
) -> dict[str, tuple[Attribution, Mapping[str, Any]]]:
    """Methods by title, for ``compare`` and ``evaluate``.

    Args:
        names (sequence of str): keys of ``METHODS`` or of ``GROUPS``
        model (nn.Module): the vision-language model

    Raises:
        ValueError: a name is unknown or given twice, or there is no name.

    Example::

        >>> from captum_dexar.shapes import load_vlm
        >>> model, _ = load_vlm()
        >>> list(named_methods(["dexar", "saliency"], model))
        ['DEX-AR', 'Saliency']
    """
    chosen = [METHODS[name] for name in chosen_names(names)]
    return {one.title: (one.make(model), one.arguments) for one in chosen}


def chosen_names(names: Sequence[str]) -> list[str]:
    """Names of methods, each once, with those of a group in its place.

    Args:
        names (sequence of str): as in :func:`named_methods`

    Raises:
        ValueError: as :func:`named_methods`.

    Example::

        >>> chosen_names(["tam", "one-pass"])[:2]
        ['tam', 'dexar']
    """
    unknown = [name for name in names if name not in METHODS and name not in GROUPS]
    if unknown or not names:
        raise ValueError(
            f"no method is called {', '.join(unknown) or 'nothing'}. There are: "
            f"{', '.join(METHODS)}; and the groups one-pass, whose methods need one "
            "forward pass per answer, and all."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given more than once.")
    expanded = [one for name in names for one in GROUPS.get(name, (name,))]
    return list(dict.fromkeys(expanded))
