"""Options that several commands have, and what is made of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from captum_dexar.result.result import VLMAttributionResult
    from torch import nn

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_DTYPES = ("auto", "float32", "float16", "bfloat16")


class InputError(Exception):
    """Something the user gave can't be used; the message says what to do."""


def add_model(parser: argparse.ArgumentParser, required: bool) -> None:
    """The model, its input and its answer."""
    parser.add_argument(
        "--model", required=required, metavar="ID_OR_FOLDER", help="the model to load"
    )
    parser.add_argument("--image", required=required, metavar="FILE", type=Path)
    parser.add_argument("--prompt", required=required, metavar="TEXT")
    parser.add_argument(
        "--target", metavar="TEXT", help="explain this answer (default: generate one)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="generate at most N tokens (default: 25)",
    )
    parser.add_argument(
        "--device",
        metavar="D",
        help="such as cpu or cuda:0, or auto: spread over all devices and, where they "
        "are full, the disk, by accelerate (default: cuda if there)",
    )
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", metavar="T")
    parser.add_argument(
        "--attn",
        metavar="IMPL",
        help="attention implementation, such as sdpa, eager or flash_attention_2 "
        "(default: the model's own)",
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Which decoder layers are read."""
    parser.add_argument(
        "--layers",
        default="all",
        metavar="WHICH",
        help="decoder layers to read: all (the paper; the default), last-half, or "
        "numbers such as 3,4",
    )


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Where files go."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help=f"where pictures, table and result go (default: {default})",
    )


def positive(text: str) -> int:
    """A number that is at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def generation_arguments(options: argparse.Namespace) -> dict[str, Any] | None:
    """Arguments for generating, where there are any.

    Raises:
        InputError: there is an answer as well.
    """
    if options.max_new_tokens is None:
        return None
    if options.target is not None:
        raise InputError(
            "--max-new-tokens is for generating an answer, but --target gives one."
        )
    return {"max_new_tokens": options.max_new_tokens, "do_sample": False}


def bundled_input(seed: int) -> tuple[nn.Module, Any, Any, Any]:
    """The bundled model, its processor, a scene, and the question about it."""
    from captum_dexar import ImagePromptInput
    from captum_dexar.shapes import load_vlm, make_scene

    if seed < 0:
        raise InputError(f"--seed must not be negative, got {seed}.")
    model, processor = load_vlm()
    scene = make_scene(seed)
    inp = ImagePromptInput(scene.image, "Describe the image.", processor, model)
    return model, processor, scene, inp


def loaded_input(options: argparse.Namespace) -> tuple[nn.Module, Any, Any]:
    """The model of the options, its processor, and the question about the image."""
    image = _opened(options.image)
    from captum_dexar import ImagePromptInput

    model, processor = _loaded(options)
    inp = ImagePromptInput(image, options.prompt, processor, model)
    return model, processor, inp


def _opened(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise InputError(f"there is no image file at {path}.")
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} is not a readable image: {error}") from None
    return image


def _loaded(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        processor = AutoProcessor.from_pretrained(
            options.model, trust_remote_code=False
        )
        model = AutoModelForImageTextToText.from_pretrained(
            options.model,
            dtype=options.dtype,
            attn_implementation=options.attn,
            use_safetensors=True,
            trust_remote_code=False,
            device_map="auto" if device == "auto" else None,
        )
        return (model if device == "auto" else model.to(device)).eval(), processor
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise InputError(
            f"{options.model} could not be loaded as a vision-language model: {error}"
        ) from error


def explained(
    model: nn.Module,
    processor: Any,
    inp: Any,
    layers: str,
    *,
    target: Any = None,
    gen_args: dict[str, Any] | None = None,
    attention_power: float = 0.0,
) -> VLMAttributionResult:
    """The answer under DEX-AR, on the layers that ``--layers`` names."""
    from captum_dexar import LayerDexAR, VLMAttribution
    from captum_dexar.model.layers import find_layers

    method = LayerDexAR(model, _chosen_layers(find_layers(model), layers))
    result: VLMAttributionResult = VLMAttribution(method, processor).attribute(
        inp,
        target=target,
        gen_args=gen_args,
        progress=target is None,
        attention_power=attention_power,
    )
    return result


def _chosen_layers(layers: list[nn.Module], which: str) -> list[nn.Module]:
    if which == "all":
        return layers
    if which == "last-half":
        return layers[len(layers) // 2 :]
    try:
        indices = [int(part) for part in which.split(",")]
        return [layers[index] for index in indices]
    except (ValueError, IndexError):
        raise InputError(
            f"--layers must be all, last-half or numbers from 0 to {len(layers) - 1} "
            f"with commas between them, got {which!r}."
        ) from None
