"""The options of DEX-AR over decoding steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder

# The first choice of the study in the README of evaluation.
POWER_WITH_RIVALS = 0.75


@dataclass(frozen=True)
class DexAROptions:
    """What :meth:`LayerDexAR.attribute_steps` and :meth:`LayerDexAR.online` take.

    Args:
        head_filter, top_k, attention_power, rivals, grad_kwargs: as in
            :meth:`LayerDexAR.attribute`
        keep_layers (bool, optional): whether the maps of single layers and the weights
            of single heads are kept. Default: None, if they take no more than 64 MiB
        max_tokens_per_pass (int, optional): how many steps are explained at once.
            Default: None, as many as fit into a part of the free memory, up to 256;
            while the model generates, as many as can be recorded in 28 MiB or a 25th of
            its weights' size

    Raises:
        ValueError: ``attention_power`` or ``rivals`` is negative, or
            ``max_tokens_per_pass`` is not positive.
    """

    head_filter: bool = True
    top_k: int = 1
    attention_power: float | None = None
    rivals: int = 0
    grad_kwargs: Mapping[str, Any] | None = None
    keep_layers: bool | None = None
    max_tokens_per_pass: int | None = None

    def __post_init__(self) -> None:
        is_number = isinstance(self.rivals, Integral)
        if not is_number or isinstance(self.rivals, bool) or self.rivals < 0:
            raise ValueError(
                "rivals must be how many of the model's next choices each token is "
                f"contrasted with, 0 or more, got {self.rivals!r}."
            )
        if not self.power >= 0:
            raise ValueError(
                f"attention_power must not be negative, got {self.attention_power}."
            )
        if self.max_tokens_per_pass is not None and self.max_tokens_per_pass < 1:
            raise ValueError(
                "max_tokens_per_pass must be a positive number of tokens, got "
                f"{self.max_tokens_per_pass}."
            )

    @property
    def power(self) -> float:
        """``attention_power``, or its default."""
        if self.attention_power is not None:
            return self.attention_power
        return POWER_WITH_RIVALS if self.rivals else 0.0

    @property
    def num_contrasts(self) -> int:
        """How many readings of each token are explained."""
        return max(1, self.rivals)

    def changed(self) -> list[str]:
        """The options that are not the paper's, such as ``"attention_power=0.5"``."""
        papers = DexAROptions(rivals=self.rivals)
        given = {
            "head_filter": self.head_filter != papers.head_filter,
            "top_k": self.top_k != papers.top_k,
            "attention_power": self.power != papers.power,
            "rivals": self.rivals != 0,
        }
        return [
            f"{name}={getattr(self, name)}" for name, is_own in given.items() if is_own
        ]


def check_rivals(options: DexAROptions, prompt: Prompt) -> None:
    """Raises ValueError for rivals beside a contrast of the user's, or for more than
    the vocabulary has."""
    if not options.rivals:
        return
    if prompt.contrast is not None:
        raise ValueError(
            "contrast names the answer that each token is contrasted with, and rivals "
            "lets the model name some: give one of them."
        )
    size = getattr(find_decoder(prompt.model).head, "out_features", None)
    if size is not None and not options.rivals < size:
        raise ValueError(
            f"rivals must be fewer than the {size} tokens of the vocabulary, got "
            f"{options.rivals}."
        )
