"""The versions of Python and of other packages that this package works with."""

import os
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Version = tuple[int, int]

OLDEST_PYTHON: Version = (3, 10)
# The tests pass on the versions of constraints-oldest.txt; newer ones are not refused.
OLDEST: dict[str, Version] = {
    "torch": (2, 6),
    "captum": (0, 9),
    "transformers": (5, 20),
}
# Models that earlier versions of transformers lack, whose inputs had other names, or
# whose images depend on the attention implementation (Kosmos-2's projection was causal
# in one of them).
OLDEST_TRANSFORMERS_OF: dict[str, Version] = {
    "dots3_note": (5, 23),
    "fuyu": (5, 21),
    "granite_docling": (5, 23),
    "inkling2": (5, 23),
    "kosmos-2": (5, 23),
    "lfm3_vl": (5, 23),
    "minicpm_ocr": (5, 21),
    "mistral_large4": (5, 22),
}
# Models of transformers that need a newer torch: earlier ones do not take their int32
# indices.
OLDEST_TORCH_OF: dict[str, Version] = {"glm5_next": (2, 8), "qwen4_exp": (2, 8)}


def installed(package: str) -> Version | None:
    """Major and minor version of a package, None if it is not known."""
    try:
        return _numbers(version(package))
    except PackageNotFoundError:
        return None


def check_versions() -> None:
    """Checks Python, torch, captum and transformers, without importing them.

    Raises:
        ImportError: One of them is older than the oldest version that is supported.
    """
    python = sys.version_info[:2]
    if python < OLDEST_PYTHON:
        raise ImportError(
            f"captum_dexar needs Python {_text(OLDEST_PYTHON)} or newer, and this is "
            f"Python {_text(python)}: create an environment with a newer Python."
        )
    found = {package: installed(package) for package in OLDEST}
    too_old = [
        package
        for package, oldest in OLDEST.items()
        if (there := found[package]) is not None and there < oldest
    ]
    if too_old:
        needed = [f"{package}>={_text(OLDEST[package])}" for package in too_old]
        present = [f"{package} {version(package)}" for package in too_old]
        upgrade = " ".join(f'"{requirement}"' for requirement in needed)
        raise ImportError(
            f"captum_dexar needs {' and '.join(needed)}, but {' and '.join(present)} "
            f"is installed: run pip install -U {upgrade}"
        )


def warn_user(message: str) -> None:
    """Warns at the line of the user's that called this package.

    Python 3.12 does so by itself, with ``skip_file_prefixes``.
    """
    inside = str(Path(__file__).parent) + os.sep
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level + 1)


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to an error, below its message in a traceback.

    Python 3.10 keeps it, but its tracebacks do not show it.
    """
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        setattr(error, "__notes__", [*getattr(error, "__notes__", ()), note])


def missing_model(model_type: str) -> str | None:
    """Why models of a type cannot be explained with the installed packages.

    Args:
        model_type (str): as in the model's configuration

    Returns:
        **str or None**: the reason, None if there is none
    """
    oldest_of = {"transformers": OLDEST_TRANSFORMERS_OF, "torch": OLDEST_TORCH_OF}
    for package, oldest_by_type in oldest_of.items():
        oldest = oldest_by_type.get(model_type)
        if oldest is None:
            continue  # without reading the metadata, which takes milliseconds
        there = installed(package)
        if there is not None and there < oldest:
            return (
                f"Models of type {model_type!r} need {package}>={_text(oldest)}, but "
                f"{package} {version(package)} is installed: run "
                f'pip install -U "{package}>={_text(oldest)}"'
            )
    return None


def image_settings(processor: Any) -> dict[str, Any]:
    """What a processor asks of its image processor, whose own settings yield to it."""
    settings = getattr(processor, "images_kwargs", None)
    if settings is None:
        # Before transformers 5.23 they belonged to the types of keyword arguments.
        declared = getattr(processor, "valid_processor_kwargs", None)
        settings = getattr(declared, "_defaults", {}).get("images_kwargs", {})
    return dict(settings)


def generates_from_pixels(model: Any) -> bool:
    """Whether ``generate`` does not encode images before it repeats a prompt for beams.

    Rows of pixels are then repeated one by one. Before transformers 5.21 several
    classes do not say that they take images.
    """
    return "image" not in getattr(model, "input_modalities", "image")


def _numbers(text: str) -> Version:
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
