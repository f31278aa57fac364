"""An input that has been checked, with all that belongs to it."""

from dataclasses import dataclass
from typing import Any

from captum_dexar.decoding import contrast_tensor
from captum_dexar.layout import ImageLayout
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CheckedPrompt:
    """One prompt.

    Attributes:
        inp (Any): the input, as it was given
        inputs (dict): the model's inputs
        layout (ImageLayout): places of its image tokens
        answer (Tensor or None): the answer that was given, ``(T,)``
        contrast (Tensor or None): the contrast that was given, 1-D
    """

    inp: Any
    inputs: dict[str, Any]
    layout: ImageLayout
    answer: Tensor | None
    contrast: Tensor | None

    def contrast_ids(self, num_steps: int) -> Tensor | None:
        """What each step is contrasted with, ``(1, steps)``."""
        if self.contrast is None:
            return None
        return contrast_tensor(self.contrast, num_steps)
