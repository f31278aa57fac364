"""Checks the token ids of an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.inputs.given_processor import check_processor
from torch import nn, Tensor

Target = str | Sequence[int] | Tensor | None


def target_tensor(
    target: Sequence[int] | Tensor, vocab_size: int, name: str = "target"
) -> Tensor:
    """The checked ids of an answer, ``(steps,)``, int64, on the CPU.

    Args:
        target (sequence of int or Tensor): the ids
        vocab_size (int): size of the vocabulary
        name (str, optional): what errors call it. Default: "target"
    """
    ids = ids_of(target, "a string, a 1-D tensor of ids or a list of ids", name).cpu()
    if ids.dim() != 1:
        raise ValueError(
            f"{name} must be 1-D, one id per decoding step, got shape "
            f"{tuple(ids.shape)}. Explain one answer at a time."
        )
    if ids.numel() == 0:
        raise ValueError(f"{name} is empty: there is no token to explain.")
    check_integers(ids, name)
    ids = ids.long()
    check_vocabulary(ids, vocab_size, name)
    return ids


def ids_of(target: Any, expected: str, name: str = "target") -> Tensor:
    """The target as a tensor; raises TypeError if it can't be one."""
    try:
        return torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be {expected}, got {type(target).__name__}: {error}"
        ) from None


def check_integers(ids: Tensor, name: str = "target") -> None:
    """Raises TypeError unless the ids are integers."""
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"{name} ids must be integers, got {ids.dtype}.")


def check_vocabulary(ids: Tensor, vocab_size: int, name: str = "target") -> None:
    """Raises ValueError if an id is negative or not below ``vocab_size``."""
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.numel():
        raise ValueError(
            f"{name} ids must lie in the vocabulary, 0 to {vocab_size - 1}, got "
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
        check_processor(processor, or_tokenizer=True)
        target = tokenised(target, getattr(processor, "tokenizer", processor), name)
    config: Any = model.config
    return target_tensor(target, config.get_text_config().vocab_size, name)


def tokenised(text: str, tokenizer: Any, name: str = "target") -> list[int]:
    """The ids of a string, without special tokens.

    Raises:
        ValueError: The tokenizer does not know a word.

    Examples::

        >>> from captum_dexar.inputs.targets import tokenised
        >>> from captum_dexar.shapes import load_vlm
        >>> tokenizer = load_vlm()[1].tokenizer
        >>> tokenizer.convert_ids_to_tokens(tokenised("A red circle.", tokenizer))
        ['a', 'red', 'circle', '.']
    """
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    if unknown_id is None or unknown_id not in ids:
        return ids
    unknown = tokenizer.unk_token
    # An answer that was generated may hold the token itself.
    rest = text.split(unknown)
    words = [
        word
        for word in " ".join(rest).split()
        if unknown_id in tokenizer.encode(word, add_special_tokens=False)
    ]
    if words or ids.count(unknown_id) != len(rest) - 1:
        raise ValueError(
            f"The tokenizer does not know {', '.join(map(repr, words or [text]))} in "
            f"the {name}, and would read {unknown!r} instead. Use words that it "
            "knows, or pass ids."
        )
    return ids
