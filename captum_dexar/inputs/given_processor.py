"""Checks what is given as the processor."""

from typing import Any

from torch import nn


def check_processor(processor: Any, or_tokenizer: bool = False) -> None:
    """Raises TypeError unless it is a processor with a tokenizer.

    Args:
        processor (Any): as given by the user
        or_tokenizer (bool, optional): whether a tokenizer alone is enough.
            Default: False
    """
    tokenizer = getattr(processor, "tokenizer", processor if or_tokenizer else None)
    if isinstance(processor, nn.Module) or not hasattr(tokenizer, "decode"):
        raise TypeError(
            "processor must be the model's processor (transformers.AutoProcessor)"
            f"{' or its tokenizer' if or_tokenizer else ''}, got "
            f"{type(processor).__name__}."
        )
