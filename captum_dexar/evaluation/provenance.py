"""With what a run was made: versions, and the model's fingerprint."""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import ExitStack
from importlib import metadata
from typing import Any

import torch
from captum_dexar.model import loaded_weights
from torch import nn, Tensor

# Tensors of more elements are read at this many places, evenly spread.
MOST_ELEMENTS = 4096
_PACKAGES = (
    *("torch", "transformers", "captum", "captum-dexar", "numpy", "Pillow"),
    # Similarities of maps, and masks of COCO.
    *("scipy", "scikit-image", "pycocotools"),
)
# Where a model was loaded from, and what saving adds, make it no other model. Its class
# and the dtypes of its weights count as such.
_NOT_THE_MODEL = ("_name_or_path", "transformers_version", "architectures", "dtype")


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of a model's class, configuration and weights.

    Of each parameter and each buffer that is saved, in the order of their names, the
    name, shape and dtype count, and its elements: all of them up to ``MOST_ELEMENTS``,
    of more that many at evenly spread places. A change of few elements of a large
    tensor can therefore go unnoticed; other weights can't. The digest depends neither
    on the device, nor on offloading, nor on where the model was loaded from.

    Args:
        model (nn.Module): the model

    Returns:
        str, 64 hexadecimal digits

    Examples::

        >>> from captum_dexar.evaluation.provenance import fingerprint
        >>> from captum_dexar.shapes import load_vlm
        >>> model, _ = load_vlm()
        >>> len(fingerprint(model)), fingerprint(model) == fingerprint(load_vlm()[0])
        (64, True)
    """
    digest = hashlib.sha256()
    config: Any = getattr(model, "config", None)
    settings = {} if config is None else _without_origin(config.to_dict())
    digest.update(type(model).__name__.encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    _add_weights(digest, model, "")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, by name; those installed only."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _add_weights(digest: Any, module: nn.Module, prefix: str) -> None:
    """Adds a module and those inside it; offloaded ones are loaded one by one."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", [hook])
    loads_children = any(getattr(one, "place_submodules", False) for one in hooks)
    own = sorted(_own_tensors(module))
    with ExitStack() as stack:
        if own or loads_children:
            stack.enter_context(loaded_weights(module))
        for name in own:
            tensor: Any = getattr(module, name)
            heading = f"{prefix}{name} {tuple(tensor.shape)} {tensor.dtype}"
            digest.update(heading.encode())
            digest.update(_bytes_of(tensor.detach()))
        if not loads_children:
            stack.close()
        for name, child in sorted(module.named_children()):
            _add_weights(digest, child, f"{prefix}{name}.")


def _own_tensors(module: nn.Module) -> list[str]:
    names = [name for name, _ in module.named_parameters(recurse=False)]
    unsaved = module._non_persistent_buffers_set
    buffers = [name for name, _ in module.named_buffers(recurse=False)]
    return names + [name for name in buffers if name not in unsaved]


def _bytes_of(tensor: Tensor) -> bytes:
    # Quantised weights are other types, which have no elements to pick.
    if hasattr(tensor, "dequantize") and type(tensor) not in (Tensor, nn.Parameter):
        tensor = tensor.dequantize()
    flat = tensor.reshape(-1)
    if flat.numel() > MOST_ELEMENTS:
        places = torch.linspace(0, flat.numel() - 1, MOST_ELEMENTS, dtype=torch.float64)
        flat = flat[places.round().long().to(flat.device)]
    return flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(key): _without_origin(one)
            for key, one in value.items()
            if key not in _NOT_THE_MODEL
        }
    return value
