"""What is refused of a model before anything of it is loaded.

A model is files by anybody. Those that are read here are JSON: weights in other formats
than safetensors are pickles, which can run code, and code that comes with a model, or
that it names elsewhere, is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from captum_dexar.cli.options import InputError

_CONFIG = "config.json"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONVERT = (
    "Pickled weights can run code when they are loaded, so only safetensors are. If "
    "you trust them, load the model in Python and write it with save_pretrained."
)
_CODE = (
    "Code that comes with a model is never run by this command. If you trust it, load "
    "the model in Python and explain it with VLMAttribution."
)


def check_model(model: str) -> None:
    """Checks a folder, or the files of a model on the Hub.

    Args:
        model (str): a folder, or a name on the Hub

    Raises:
        InputError: its weights are no safetensors, or it needs code of its own.
        OSError: there is no such model, or it can't be reached.
    """
    config = _json_of(model, _CONFIG)
    adapter = _json_of(model, _ADAPTER)
    if adapter is not None:
        if _file_of(model, _ADAPTER_WEIGHTS) is None:
            raise InputError(
                f"{model} is an adapter without {_ADAPTER_WEIGHTS}. {_CONVERT}"
            )
        if config is None:
            _check_base(model, adapter.get("base_model_name_or_path"))
            return
    if config is None:
        # transformers says what is missing.
        return
    _check_kernels(model, config)
    _check_code(model, config)
    _check_weights(model, config)


def check_attention(name: str | None) -> None:
    """Raises InputError for an attention implementation that would be downloaded."""
    if name is not None and "/" in name:
        raise InputError(
            f"--attn {name} names code on the Hub, which this command never runs. Give "
            "sdpa, eager, or another implementation that is installed."
        )


def _check_base(adapter: str, base: Any) -> None:
    if not isinstance(base, str) or not base:
        raise InputError(f"{adapter}: {_ADAPTER} does not name the model it is for.")
    if _json_of(base, _CONFIG) is None:
        raise InputError(f"{adapter} is an adapter for {base}, which has no {_CONFIG}.")
    check_model(base)


def _check_kernels(model: str, config: dict[str, Any]) -> None:
    for key, value in _entries(config):
        if "implementation" in key and isinstance(value, str) and "/" in value:
            raise InputError(
                f"{model}: {key} of {_CONFIG} is {value!r}, which names code on the "
                f"Hub. It is never run by this command. Remove {key} from {_CONFIG}."
            )


def _check_code(model: str, config: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if "auto_map" in config and kind not in CONFIG_MAPPING:
        raise InputError(
            f"{model}: models of the type {kind!r} are not in this version of "
            f"transformers. {_CODE}"
        )


def _check_weights(model: str, config: dict[str, Any]) -> None:
    folder = Path(model)
    named = config.get("transformers_weights")
    if folder.is_dir():
        indexes = [path.name for path in folder.glob("*.safetensors.index.json")]
        if not any(folder.glob("*.safetensors")) and not indexes:
            found = sorted(one.name for kind in _PICKLED for one in folder.glob(kind))
            there = f", but {found[0]}" if found else ""
            raise InputError(f"{model} has no {_WEIGHTS}{there}. {_CONVERT}")
    else:
        indexes = [_INDEX]
    if isinstance(named, str):
        if not named.endswith((".safetensors", ".safetensors.index.json")):
            raise InputError(
                f"{model}: transformers_weights of {_CONFIG} is {named!r}. {_CONVERT}"
            )
        if named.endswith(".json") and named not in indexes:
            indexes.append(named)
    for index in indexes:
        _check_index(model, index)


def _check_index(model: str, name: str) -> None:
    index = _json_of(model, name)
    if index is None:
        return
    files = index.get("weight_map")
    if not isinstance(files, dict):
        raise InputError(f"{model}: {name} has no weight_map, from weights to files.")
    for file in files.values():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise InputError(f"{model}: {name} names {file!r}. {_CONVERT}")
        # Also the separators of Windows, whatever the system.
        if PureWindowsPath(file).name != file:
            raise InputError(
                f"{model}: {name} names {file!r}, which is not in the same folder. Put "
                "the weights beside it."
            )


def _entries(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth; a dict's values have its key too."""
    if depth > 50:
        raise InputError(f"{_CONFIG} has more than 50 levels.")
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            for below, one in _entries(inner, depth + 1):
                yield f"{key}.{below}", one
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            for below, one in _entries(inner, depth + 1):
                yield f"{number}.{below}", one


def _json_of(model: str, name: str) -> dict[str, Any] | None:
    """What a file of the model says; None if there is no such file."""
    path = _file_of(model, name)
    if path is None:
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{model}: {name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(
            f"{model}: {name} must be a JSON object, got {type(value).__name__}."
        )
    return value


def _file_of(model: str, name: str) -> Path | None:
    folder = Path(model)
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    # Offline, what has not been downloaded is a connection that fails.
    found = cached_file(
        model,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)
