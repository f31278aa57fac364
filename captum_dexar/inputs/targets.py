"""Checks the token ids of an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn, Tensor

Target = str | Sequence[int] | Tensor | None


def target_tensor(target: Sequence[int] | Tensor, vocab_size: int) -> Tensor:
    """The checked ids of an answer, ``(steps,)``, int64, on the CPU."""
    ids = ids_of(target, "a string, a 1-D tensor of ids or a list of ids").cpu()
    if ids.dim() != 1:
        raise ValueError(
            "target must be 1-D, one id per decoding step, got shape "
            f"{tuple(ids.shape)}. Explain one answer at a time."
        )
    if ids.numel() == 0:
        raise ValueError("target is empty: there is no token to explain.")
    check_integers(ids)
    ids = ids.long()
    check_vocabulary(ids, vocab_size)
    return ids


def ids_of(target: Any, expected: str) -> Tensor:
    """The target as a tensor; raises TypeError if it can't be one."""
    try:
        return torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"target must be {expected}, got {type(target).__name__}: {error}"
        ) from None


def check_integers(ids: Tensor) -> None:
    """Raises TypeError unless the ids are integers."""
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"target ids must be integers, got {ids.dtype}.")


def check_vocabulary(ids: Tensor, vocab_size: int) -> None:
    """Raises ValueError if an id is negative or not below ``vocab_size``."""
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.numel():
        raise ValueError(
            f"target ids must lie in the vocabulary, 0 to {vocab_size - 1}, got "
            f"{sorted(set(outside.tolist()))}."
        )


def given_ids(
    target: Any, processor: Any, model: nn.Module, name: str = "target"
) -> Tensor:
    """The ids of an answer given as a string or as ids, ``(steps,)``."""
    if isinstance(target, str):
        if processor is None:
            raise ValueError(
                f"A {name} given as a string needs a processor to tokenise it: "
                "VLMAttribution(attr_method, processor). Or pass its ids."
            )
        tokenizer = getattr(processor, "tokenizer", processor)
        target = tokenizer.encode(target, add_special_tokens=False)
    config: Any = model.config
    return target_tensor(target, config.get_text_config().vocab_size)
