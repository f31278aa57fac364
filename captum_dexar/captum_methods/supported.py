"""Which methods of Captum explain an answer here, and why the others do not."""

from __future__ import annotations

from typing import Any

from captum.attr import GradientAttribution, NoiseTunnel

PIXELS = "pixels"
PARTS = "parts of the image"
LAYER = "tokens of a vision layer"
# ShapleyValues adds the features in every order: 12! are half a billion.
MOST_IN_EVERY_ORDER = 12

_IF_RELU = ", if every activation of the model is an `nn.ReLU` module"
_IF_RULES = (
    ", if every activation of the model is a module that Captum has a rule for "
    "(`nn.ReLU`, `nn.ELU`, `nn.LeakyReLU`, `nn.Sigmoid`, `nn.Tanh`, `nn.Softplus`)"
)
# By name: what a method explains, and a condition or remark.
EXPLAINED: dict[str, tuple[str, str]] = {
    "GradientShap": (PIXELS, ""),
    "InputXGradient": (PIXELS, ""),
    "IntegratedGradients": (PIXELS, ""),
    "Saliency": (PIXELS, ""),
    "NoiseTunnel": (PIXELS, ", around a method that explains pixels"),
    "DeepLift": (PIXELS, _IF_RULES),
    "DeepLiftShap": (PIXELS, _IF_RULES),
    "Deconvolution": (PIXELS, _IF_RELU),
    "GuidedBackprop": (PIXELS, _IF_RELU),
    "FeatureAblation": (PARTS, ""),
    "KernelShap": (PARTS, ""),
    "Lime": (PARTS, ""),
    "ShapleyValueSampling": (PARTS, ""),
    "ShapleyValues": (PARTS, f", no more than {MOST_IN_EVERY_ORDER}"),
    "Occlusion": (PARTS, " that form a grid, so no segments"),
    "LayerGradCam": (LAYER, ""),
    "LayerGradientXActivation": (LAYER, ""),
    "LayerIntegratedGradients": (LAYER, ""),
    "LayerActivation": (LAYER, ", the same for every word"),
}

_BASE = "it is a base class. Use one of its methods"
_NEURON = (
    "it explains a neuron inside the model, not a token of the answer. Use the layer's "
    "method or LayerDexAR"
)
_WRAPPER = (
    "it is itself a wrapper, for language models. Pass VLMAttribution the method "
    "alone, created with VLMForward(model)"
)
_PERMUTES = (
    "it exchanges features between the examples of a batch, but an answer is a single "
    "example. Use FeatureAblation"
)
_RELEVANCE = (
    "Captum has no relevance rules for attention, norms and embeddings. Use LayerDexAR "
    "or IntegratedGradients"
)
_LAYER_RULES = (
    "DeepLift's rules are for torch's own activation modules, which few "
    "vision-language models have. Use LayerIntegratedGradients"
)
_EXAMPLES = (
    "it explains a prediction by training examples, not by places of the image. Use "
    "LayerDexAR"
)
# By name: why a method is refused, and what to do.
REFUSED: dict[str, str] = {
    "Attribution": _BASE,
    "GradientAttribution": _BASE,
    "LayerAttribution": _BASE,
    "NeuronAttribution": _BASE,
    "PerturbationAttribution": _BASE,
    "DataLoaderAttribution": (
        "it explains a metric over a data set, not an answer. Pass VLMAttribution the "
        "method alone, created with VLMForward(model), and attribute a list of inputs"
    ),
    "FeaturePermutation": _PERMUTES,
    "GuidedGradCam": (
        "it enlarges the map of a convolutional layer to the pixels, but the layers "
        "here return tokens. Use LayerGradCam"
    ),
    "InternalInfluence": (
        "it gives gradients that are not multiplied by activations, so the channels of "
        "a token can't be summed. Use LayerIntegratedGradients"
    ),
    "LayerConductance": (
        "Captum takes every row of a layer's output for an example, but the rows of an "
        "image can be tiles or patches. Use LayerIntegratedGradients"
    ),
    "LayerDeepLift": _LAYER_RULES,
    "LayerDeepLiftShap": _LAYER_RULES,
    "LayerFeatureAblation": (
        "it ablates a layer's output element by element, and a token has hundreds. Use "
        "FeatureAblation, which ablates parts of the image"
    ),
    "LayerFeaturePermutation": _PERMUTES,
    "LayerGradientShap": (
        "Captum takes every row of a layer's output for an example, but the rows of an "
        "image can be tiles or patches. Use LayerIntegratedGradients, or GradientShap"
    ),
    "LayerLRP": _RELEVANCE,
    "LimeBase": (
        "it perturbs a representation of the user's own. Use Lime, which perturbs the "
        "image"
    ),
    "LLMAttribution": _WRAPPER,
    "LLMGradientAttribution": _WRAPPER,
    "LRP": _RELEVANCE,
    "NeuronConductance": _NEURON,
    "NeuronDeconvolution": _NEURON,
    "NeuronDeepLift": _NEURON,
    "NeuronDeepLiftShap": _NEURON,
    "NeuronFeatureAblation": _NEURON,
    "NeuronGradient": _NEURON,
    "NeuronGradientShap": _NEURON,
    "NeuronGuidedBackprop": _NEURON,
    "NeuronIntegratedGradients": _NEURON,
    "RemoteLLMAttribution": _WRAPPER,
}
_CONCEPTS = (
    "it explains a class by concepts, not a token by places of the image. Use "
    "LayerDexAR"
)
# The same for methods of captum.concept and captum.influence.
REFUSED_ELSEWHERE: dict[str, str] = {
    "ConceptInterpreter": _BASE,
    "DataInfluence": _BASE,
    "NaiveInfluenceFunction": _EXAMPLES,
    "SimilarityInfluence": _EXAMPLES,
    "TCAV": _CONCEPTS,
    "TracInCP": _EXAMPLES,
    "TracInCPBase": _BASE,
    "TracInCPFast": _EXAMPLES,
    "TracInCPFastRandProj": _EXAMPLES,
}


def explained_kind(method: Any) -> str:
    """What a method explains: ``PIXELS``, ``PARTS`` or ``LAYER``.

    Raises:
        TypeError: it can't explain an answer; the message says why.
    """
    name = captum_name(method)
    if isinstance(method, NoiseTunnel):
        inner = method.attribution_method
        if isinstance(inner, NoiseTunnel) or explained_kind(inner) != PIXELS:
            raise TypeError(
                f"NoiseTunnel can't be used around {type(inner).__name__}: it adds "
                "noise to the model's pixels, so the method inside must be one that "
                "explains pixels, such as Saliency."
            )
        return PIXELS
    if name in EXPLAINED:
        return EXPLAINED[name][0]
    if name == "GradientAttribution" and type(method) is not GradientAttribution:
        return PIXELS  # the user's own method
    reason = {**REFUSED, **REFUSED_ELSEWHERE}.get(name)
    if reason is not None:
        raise TypeError(f"{name} can't explain an answer: {reason}.")
    raise TypeError(
        "attr_method must be LayerDexAR, a method of captum_dexar.baselines, or one of "
        f"Captum's gradient, perturbation and layer methods, got "
        f"{type(method).__name__}."
    )


def captum_name(method: Any) -> str:
    """The class of Captum's that a method is, or is derived from; "" if none."""
    for cls in type(method).__mro__:
        if cls.__module__.partition(".")[0] == "captum":
            return cls.__name__
    return ""


def methods_table() -> str:
    """A Markdown table of Captum's methods, grouped by what they explain or why not."""
    rows: dict[str, list[str]] = {}
    for name, (kind, condition) in EXPLAINED.items():
        rows.setdefault(kind + condition, []).append(name)
    for name, reason in {**REFUSED, **REFUSED_ELSEWHERE}.items():
        rows.setdefault(f"refused: {reason}.", []).append(name)
    lines = [
        f"| {', '.join(f'`{name}`' for name in names)} | {text} |"
        for text, names in rows.items()
    ]
    return "\n".join(["| methods | what they explain |", "|---|---|", *lines])
