"""Loading what ``--model``, ``--device`` and ``--image`` name."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import shorten
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.console import say
from captum_dexar.cli.model_checks import check_attention, check_model
from captum_dexar.cli.options import BUNDLED_PROMPT, InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

AUTO = "auto"
_FEW = 3
_LONGEST_REASON = 200


def loaded_input(options: argparse.Namespace) -> tuple[nn.Module, Any, Any]:
    """The given model, its processor, and the question about the image."""
    if options.model is None:
        say(
            "The bundled model knows drawn shapes and colours only; --model names "
            "another.",
            error=True,
        )
    elif options.prompt is None:
        raise InputError("--model needs --prompt as well: the question to ask it.")
    image = _opened(options.image)
    from captum_dexar import ImagePromptInput

    model, processor = loaded_model(options)
    prompt = BUNDLED_PROMPT if options.prompt is None else options.prompt
    inp = ImagePromptInput(image, prompt, processor, model)
    return model, processor, inp


def _opened(path: Path) -> Image.Image:
    """The image of ``--image``; InputError if it can't be read."""
    if not path.is_file():
        raise InputError(f"there is no image file at {path}.")
    from captum_dexar.inputs.pictures import picture_of

    try:
        return picture_of(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--image: {error}") from None


def loaded_model(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    """The model of ``--model``, or else the bundled one, and its processor.

    Raises:
        InputError: there is no such model, device or attention implementation.
    """
    check_attention(options.attn)
    device = _device_of(options)
    if options.model is None:
        return _bundled_model(options, device)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        check_model(options.model)
        processor = AutoProcessor.from_pretrained(
            options.model, trust_remote_code=False
        )
        model, report = AutoModelForImageTextToText.from_pretrained(
            options.model,
            dtype=options.dtype,
            attn_implementation=options.attn,
            use_safetensors=True,
            trust_remote_code=False,
            device_map="auto" if device == AUTO else None,
            output_loading_info=True,
        )
        _check_complete(options.model, report)
        return (model if device == AUTO else model.to(device)).eval(), processor
    except InputError:
        raise
    except Exception as error:  # of files that anybody has made, anything
        raise InputError(
            f"{options.model} could not be loaded as a vision-language model: "
            f"{_told(error)}"
        ) from error


def _bundled_model(options: argparse.Namespace, device: str) -> tuple[nn.Module, Any]:
    import torch
    from captum_dexar.shapes import load_vlm

    model, processor = load_vlm()
    if options.attn is not None:
        model.set_attn_implementation(options.attn)
    if options.dtype != AUTO:
        model.to(dtype=getattr(torch, options.dtype))
    # It is too small to be spread over devices.
    return model.to(_best_device() if device == AUTO else device), processor


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_of(options: argparse.Namespace) -> str:
    """``--device``, or the default; InputError if this machine has no such device."""
    import torch

    name: str | None = options.device
    if name is None:
        return _best_device()
    if name == AUTO:
        return name
    try:
        if torch.device(name).type == "meta":
            raise RuntimeError("tensors on it have no values")
        torch.empty(1, device=name)
    except Exception as error:  # each device has errors of its own
        there = ["cpu", *(f"cuda:{one}" for one in range(torch.cuda.device_count()))]
        reason = shorten(str(error), _LONGEST_REASON, placeholder=" ...")
        raise InputError(
            f"--device {name} can't be used here ({reason}). Give auto or one of "
            f"{', '.join(there)}."
        ) from None
    return name


def _check_complete(model: str, report: dict[str, Any]) -> None:
    """Raises InputError for weights that were made up: no file has them."""
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        more = ", ..." if len(missing) > _FEW else ""
        raise InputError(
            f"{model} lacks {len(missing)} weights of the model: "
            f"{', '.join(missing[:_FEW])}{more}. They would be random, and so would "
            "the explanation. Download or save the model again."
        )


def _told(error: Exception) -> str:
    """An error with its type, unless that says nothing to who gave the model."""
    from safetensors import SafetensorError

    text = str(error) or "no reason is given"
    if isinstance(error, SafetensorError):
        return f"its weights are damaged or incomplete ({text}). Download it again."
    if isinstance(error, (OSError, ValueError, ImportError)):
        return text
    return f"{type(error).__name__}: {text}"
