"""Options shared by several commands.

Everything that needs no model is checked before anything slow is imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

from captum_dexar.comparison.methods import chosen_names, GROUPS, METHODS

if TYPE_CHECKING:
    from captum_dexar.vlm_attribution import VLMAttribution
    from torch import nn

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

BUNDLED_PROMPT = "Describe the image."
_DTYPES = ("auto", "float32", "float16", "bfloat16")


class InputError(Exception):
    """Invalid input; the message is printed without a traceback."""


def add_model(parser: argparse.ArgumentParser, image_required: bool) -> None:
    """Adds the options for a model, its input and its answer."""
    parser.add_argument(
        "--model",
        metavar="ID_OR_FOLDER",
        help="the model to load (default: the bundled one, which knows drawn shapes "
        "and colours only)",
    )
    parser.add_argument(
        "--image", required=image_required, metavar="FILE", type=Path, help="the image"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="the question about it (default, for the bundled model: "
        f'"{BUNDLED_PROMPT}")',
    )
    parser.add_argument(
        "--target", metavar="TEXT", help="explain this answer (default: generate one)"
    )
    add_loading(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Adds the options for how a model is loaded and generates."""
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="generate at most N tokens (default: 25)",
    )
    parser.add_argument(
        "--device",
        metavar="D",
        help="such as cpu or cuda:0; auto lets accelerate spread the model over all "
        "devices and, where they are full, the disk (default: cuda if available)",
    )
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="auto",
        metavar="T",
        help=f"precision of the model: {', '.join(_DTYPES)} (default: auto)",
    )
    parser.add_argument(
        "--attn",
        metavar="IMPL",
        help="attention implementation, such as sdpa, eager or flash_attention_2 "
        "(default: the model's own)",
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the decoder layers."""
    parser.add_argument(
        "--layers",
        default="all",
        metavar="WHICH",
        help="decoder layers to use: all (as in the paper; the default), last-half, or "
        "numbers such as 3,4",
    )


def add_methods(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    """Adds the option for methods, and their names below the help."""
    parser.add_argument(
        "--methods",
        default=",".join(default),
        metavar="NAMES",
        help="names separated by commas (default: %(default)s)",
    )
    titles = "; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
    parser.epilog = f"methods: {titles}. groups: {', '.join(GROUPS)}"


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds the option for the folder of the output."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help=f"folder for figures, tables and results (default: {default})",
    )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def method_names(given: str) -> list[str]:
    """The names of ``--methods``; raises InputError if unknown or repeated."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    try:
        return chosen_names(names)
    except ValueError as error:
        raise InputError(f"--methods: {error}") from None


def check_seed(option: str, seed: int) -> None:
    """Raises InputError for a negative seed."""
    if seed < 0:
        raise InputError(f"{option} must not be negative, got {seed}.")


def generation_arguments(options: argparse.Namespace) -> dict[str, Any] | None:
    """Arguments of ``generate``, or None; raises InputError with ``--target``."""
    if options.max_new_tokens is None:
        return None
    if options.target is not None:
        raise InputError(
            "--max-new-tokens is for generating an answer, but --target gives one."
        )
    return {"max_new_tokens": options.max_new_tokens, "do_sample": False}


def drawn_input(seed: int, model: nn.Module, processor: Any) -> tuple[Any, Any]:
    """A scene, and the bundled model's question about it."""
    from captum_dexar import ImagePromptInput
    from captum_dexar.shapes import make_scene

    scene = make_scene(seed)
    return scene, ImagePromptInput(scene.image, BUNDLED_PROMPT, processor, model)


def check_out(folder: Path) -> None:
    """Raises InputError if a folder can't be made, or nothing be written to it.

    Before anything is computed, which would be lost. Nothing is made yet.
    """
    nearest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise InputError(f"--out: {nearest} is a file, and no folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--out: nothing can be written to the folder {nearest}.")


def attribution(model: nn.Module, processor: Any, layers: str) -> VLMAttribution:
    """DEX-AR on the layers given by ``--layers``."""
    from captum_dexar import LayerDexAR, VLMAttribution
    from captum_dexar.model.layers import find_layers

    method = LayerDexAR(model, _chosen_layers(find_layers(model), layers))
    return VLMAttribution(method, processor)


def layer_numbers(which: str) -> list[int] | None:
    """The numbers of ``--layers``; None for all and last-half."""
    if which in ("all", "last-half"):
        return None
    try:
        return [int(part) for part in which.split(",")]
    except ValueError:
        raise _layers_error(which, "numbers") from None


def _chosen_layers(layers: list[nn.Module], which: str) -> list[nn.Module]:
    numbers = layer_numbers(which)
    if numbers is None:
        return layers if which == "all" else layers[len(layers) // 2 :]
    try:
        return [layers[number] for number in numbers]
    except IndexError:
        raise _layers_error(which, f"numbers from 0 to {len(layers) - 1}") from None


def _layers_error(which: str, numbers: str) -> InputError:
    return InputError(
        f"--layers must be all, last-half or {numbers} separated by commas, got "
        f"{which!r}."
    )
