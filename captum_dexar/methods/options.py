"""The options of DEX-AR over decoding steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DexAROptions:
    """What :meth:`LayerDexAR.attribute_steps` and :meth:`LayerDexAR.online` take.

    Args:
        head_filter, top_k, attention_power, grad_kwargs: as in
            :meth:`LayerDexAR.attribute`
        keep_layers (bool, optional): whether the maps of single layers and the weights
            of single heads are kept. Default: None, if they take no more than 64 MiB
        max_tokens_per_pass (int, optional): how many steps are explained at once.
            Default: None, as many as fit into a part of the free memory, up to 256;
            while the model generates, as many as can be recorded in 28 MiB or a 25th of
            its weights' size

    Raises:
        ValueError: ``attention_power`` is negative, or ``max_tokens_per_pass`` is not
            positive.
    """

    head_filter: bool = True
    top_k: int = 1
    attention_power: float = 0.0
    grad_kwargs: Mapping[str, Any] | None = None
    keep_layers: bool | None = None
    max_tokens_per_pass: int | None = None

    def __post_init__(self) -> None:
        if not self.attention_power >= 0:
            raise ValueError(
                f"attention_power must not be negative, got {self.attention_power}."
            )
        if self.max_tokens_per_pass is not None and self.max_tokens_per_pass < 1:
            raise ValueError(
                "max_tokens_per_pass must be a positive number of tokens, got "
                f"{self.max_tokens_per_pass}."
            )

    def changed(self) -> list[str]:
        """The options that are not the paper's, such as ``"attention_power=0.5"``."""
        papers = DexAROptions()
        return [
            f"{name}={getattr(self, name)}"
            for name in ("head_filter", "top_k", "attention_power")
            if getattr(self, name) != getattr(papers, name)
        ]
