"""The options of ``captum-dexar evaluate`` that say what is measured."""

from __future__ import annotations

import argparse
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.options import InputError

if TYPE_CHECKING:
    from captum_dexar.evaluation import EvaluationDataset
    from captum_dexar.evaluation.protocols import EvaluationProtocol

_LOCALIZATION, _PERTURBATION, _SANITY = "localization", "perturbation", "sanity"
EFFECTS = "effects"
# By their names here, the classes of captum_dexar.evaluation.protocols.
_CLASSES = {
    _LOCALIZATION: "LocalizationProtocol",
    _PERTURBATION: "PerturbationProtocol",
    EFFECTS: "EffectsProtocol",
    _SANITY: "SanityProtocol",
}
_SPELLINGS = {"localisation": _LOCALIZATION}
# The options that only one protocol has, as arguments of its class.
_OWN_OPTIONS = {
    _PERTURBATION: ("fractions", "fill", "unit", "insertion", "sufficient"),
    EFFECTS: ("negligible", "similar", "substantial"),
    _SANITY: ("depths",),
}


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the protocol, and those of single protocols."""
    parser.add_argument(
        "--protocol",
        choices=(*_CLASSES, *_SPELLINGS),
        default=_LOCALIZATION,
        metavar="NAME",
        help=f"what is measured: {', '.join(_CLASSES)} (default: {_LOCALIZATION})",
    )
    group = parser.add_argument_group("with --protocol perturbation")
    group.add_argument(
        "--fractions",
        type=_numbers,
        metavar="NUMBERS",
        help="shares of the image that are removed, separated by commas (default: 0 "
        "to 0.9 in steps of 0.1)",
    )
    group.add_argument(
        "--fill",
        type=_fill,
        metavar="FILL",
        help="what replaces them: mean, the image's mean colour; blur; or a colour "
        "such as 128,128,128 (default: mean)",
    )
    group.add_argument(
        "--unit",
        choices=("token", "pixel"),
        help="what is removed at a time: the box of an image token, or a pixel "
        "(default: token)",
    )
    group.add_argument(
        "--insertion",
        action="store_true",
        default=None,
        help="insert parts into the filled image as well",
    )
    group.add_argument(
        "--sufficient",
        type=float,
        metavar="SHARE",
        help="share of the image that is shown for each word (default: 0.1)",
    )
    group = parser.add_argument_group("with --protocol effects")
    group.add_argument(
        "--negligible",
        type=float,
        metavar="NATS",
        help="an object whose removal costs a word less has no effect on it (default: "
        "0.05)",
    )
    group.add_argument(
        "--similar",
        type=float,
        metavar="SHARE",
        help="effects that differ by less than this share of the larger one have the "
        "same rank (default: 0.1)",
    )
    group.add_argument(
        "--substantial",
        type=float,
        metavar="NATS",
        help="words that lose as much without any object should have a large token "
        "weight (default: log 2)",
    )
    group = parser.add_argument_group("with --protocol sanity")
    group.add_argument(
        "--depths",
        type=int,
        metavar="N",
        help="number of depths of the cascade, for models with many layers (default: "
        "the head and every layer)",
    )


def protocol_name(options: argparse.Namespace) -> str:
    """The protocol's name; raises InputError for an option of another protocol."""
    name: str = _SPELLINGS.get(options.protocol, options.protocol)
    for protocol, own in _OWN_OPTIONS.items():
        for option in own:
            if protocol != name and getattr(options, option) is not None:
                raise InputError(f"--{option} needs --protocol {protocol}.")
    return name


def made_protocol(
    options: argparse.Namespace, dataset: EvaluationDataset
) -> EvaluationProtocol:
    """The protocol; raises InputError if an option has no such value."""
    from captum_dexar.evaluation import protocols

    name = protocol_name(options)
    arguments: dict[str, Any] = {
        option: value
        for option in _OWN_OPTIONS.get(name, ())
        if (value := getattr(options, option)) is not None
    }
    if options.max_new_tokens is not None:
        limit = options.max_new_tokens
        arguments["gen_args"] = {"max_new_tokens": limit, "do_sample": False}
    if name in (_SANITY, EFFECTS):
        arguments["dataset"] = dataset
    try:
        made: EvaluationProtocol = getattr(protocols, _CLASSES[name])(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"--protocol {name}: {error}") from None
    return made


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def _fill(text: str) -> str | tuple[int, ...]:
    """A name, or a colour."""
    if "," not in text:
        return text
    return tuple(int(one) for one in text.split(","))
