"""Checks the arguments of Captum's methods before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from numbers import Integral, Real
from typing import Any

import torch
from captum.attr import NoiseTunnel
from captum.attr._core.noise_tunnel import SUPPORTED_NOISE_TUNNEL_TYPES
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS
from captum_dexar.captum_methods.supported import PARTS
from captum_dexar.methods.base import check_known
from torch import Tensor

# Arguments of Captum's methods that are set here, with the reason.
REFUSED_ARGUMENTS = {
    "inputs": "the pixels come from the input of VLMAttribution.attribute",
    "target": "the answer is the target of VLMAttribution.attribute",
    "additional_forward_args": (
        "prompt and answer come from the input of VLMAttribution.attribute"
    ),
    "feature_mask": (
        "the features are the image tokens of an ImagePromptInput or the segments of "
        "an ImageMaskInput(image, mask=...). Pass the mask there, or patches=(rows, "
        "columns) for coarser parts"
    ),
    "attribute_to_layer_input": (
        "Captum does not see the inputs that layers get by name, as those of vision "
        "towers do. Create the method with the layer before"
    ),
    "attr_dim_summation": "a map has one value per image token, summed over channels",
}
# Perturbation methods paint parts of the image instead.
PAINTED = (
    "absent parts of the image are painted over before the processor sees it. Pass the "
    "colour to ImageMaskInput(image, baseline=(red, green, blue), ...)"
)
# These have a default here.
OPTIONAL = ("sliding_window_shapes",)
COUNTS = (
    "n_steps",
    "n_samples",
    "internal_batch_size",
    "perturbations_per_eval",
    "nt_samples",
    "nt_samples_batch_size",
    "steps_per_batch",
)
PAIRS = ("patches", "sliding_window_shapes", "strides")
CHOICES = {"method": SUPPORTED_METHODS, "nt_type": SUPPORTED_NOISE_TUNNEL_TYPES}
FLAGS = (
    "abs",
    "draw_baseline_from_distrib",
    "relu_attributions",
    "return_convergence_delta",
    "return_input_shape",
    "show_progress",
)


def checked_arguments(
    method: Any, kind: str, name: str, given: Mapping[str, Any], extra: Sequence[str]
) -> dict[str, Any]:
    """The arguments that a method is called with.

    Args:
        method (Attribution): the user's method
        kind (str): what it explains
        name (str): its display name
        given (Mapping): the user's arguments
        extra (sequence of str): arguments that it has only here

    Raises:
        TypeError: the method does not have an argument, or it can't be used here, or it
            has an unsupported type, or a required one is missing.
        ValueError: an argument has a value out of range.
    """
    parameters = _parameters(method)
    refused = dict(REFUSED_ARGUMENTS)
    if kind == PARTS:
        refused["baselines"] = PAINTED
    arguments = dict(given)
    for argument in refused.keys() & arguments.keys() & parameters.keys():
        if not _is_default(arguments.pop(argument), parameters[argument]):
            raise TypeError(f"{name} can't take {argument} here: {refused[argument]}.")
    known = [argument for argument in parameters if argument not in refused]
    check_known(name, arguments, [*known, *extra])
    missing = [
        argument
        for argument in known
        if parameters[argument].default is Parameter.empty
        and argument not in (*arguments, *OPTIONAL)
    ]
    if missing:
        raise TypeError(f"{name} needs the argument {', '.join(missing)}.")
    for argument, value in arguments.items():
        check = _check_of(argument)
        is_default = argument in parameters and _is_default(value, parameters[argument])
        if check is not None and not is_default and value is not None:
            check(argument, value)
    if "stdevs" in arguments:
        arguments["stdevs"] = _standard_deviation(arguments["stdevs"])
    for argument in PAIRS:
        if isinstance(arguments.get(argument), list):
            arguments[argument] = tuple(arguments[argument])
    return arguments


def _parameters(method: Any) -> dict[str, Parameter]:
    """The method's own, and those of the method inside a NoiseTunnel."""
    own = dict(signature(method.attribute).parameters)
    if isinstance(method, NoiseTunnel):
        own = {**_parameters(method.attribution_method), **own}
    return {
        name: parameter
        for name, parameter in own.items()
        if parameter.kind is not Parameter.VAR_KEYWORD
    }


def _is_default(value: Any, parameter: Parameter) -> bool:
    default = parameter.default
    if default is None:
        return value is None
    return type(value) is type(default) and bool(value == default)


def _check_of(argument: str) -> Callable[[str, Any], None] | None:
    if argument in COUNTS:
        return _check_count
    if argument in FLAGS:
        return _check_flag
    if argument in CHOICES:
        return _check_choice
    return {
        "baselines": _check_baselines,
        "grad_kwargs": _check_mapping,
        "patches": _check_patches,
        "sliding_window_shapes": _check_patches,
        "strides": _check_strides,
    }.get(argument)


def _check_count(name: str, value: Any) -> None:
    if not _is_whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}.")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")


def _check_choice(name: str, value: Any) -> None:
    if value not in CHOICES[name]:
        raise ValueError(
            f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}."
        )


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(value).__name__}.")


def _check_patches(name: str, value: Any) -> None:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not is_pair or not all(_is_whole(side) for side in value):
        raise TypeError(
            f"{name} must be two whole numbers, (rows, columns), " f"got {value!r}."
        )
    if min(value) < 1:
        raise ValueError(f"{name} must be positive, got {tuple(value)}.")


def _check_strides(name: str, value: Any) -> None:
    check = _check_count if _is_whole(value) else _check_patches
    check(name, value)


def _check_baselines(name: str, value: Any) -> None:
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ValueError(
                f"{name} must be one, for the model's pixels, got {len(value)}."
            )
        value = value[0]
    if callable(value) and not isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, (Tensor, Real)):
        raise TypeError(
            f"{name} must be a number or a tensor of the model's pixels, got "
            f"{type(value).__name__}."
        )
    if not bool(torch.as_tensor(value).isfinite().all()):
        raise ValueError(f"{name} must be finite.")


def _standard_deviation(value: Any) -> float:
    """As a float, which Captum insists on."""
    only = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
    if isinstance(only, bool) or not isinstance(only, Real):
        raise TypeError(f"stdevs must be a number, for the pixels, got {value!r}.")
    if not 0 <= float(only) < float("inf"):
        raise ValueError(f"stdevs must be finite and not negative, got {value!r}.")
    return float(only)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def arguments_table() -> str:
    """A Markdown table of the refused arguments."""
    rows = [(f"`{name}`", reason) for name, reason in REFUSED_ARGUMENTS.items()]
    rows.append(("`baselines` of methods that explain parts of the image", PAINTED))
    lines = ["| argument | why it is refused |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {reason}. |" for name, reason in rows)])
