"""One forward pass, some positions of which predict known tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from captum_dexar.inputs import logits_of
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor


@dataclass(frozen=True, eq=False)
class ModelPass:
    """A forward pass and the tokens to explain in it.

    Attributes:
        model (nn.Module): the vision-language model
        inputs (Mapping): its keyword arguments
        query_positions (Tensor): positions of the pass that predict the targets,
            ``(steps,)``, ascending
        target_ids (Tensor): ``(batch, steps)``
        image_keys (Tensor): positions of the image tokens among all keys of the
            attention that reads them, ``(batch, image tokens)``
        num_keys (int): number of self-attention keys, i.e. the length of the whole
            sequence including its cached part, and ``encoder_keys``
        cross_attention (str or None): name of the cross-attention module inside a
            decoder layer that reads the image; None if self-attention reads it
        first_step (int): index of the first of these steps among those explained
        new_cache (Callable): makes the cache that each run needs, or None
        encoder_keys (int): how many states of an encoder are keys of self-attention,
            too, behind the decoder's own
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    query_positions: Tensor
    target_ids: Tensor
    image_keys: Tensor
    num_keys: int
    cross_attention: str | None = None
    first_step: int = 0
    new_cache: Callable[[], Any] = lambda: None
    encoder_keys: int = 0

    def logits(self) -> Tensor:
        """Runs the model; returns logits, ``(batch, steps, vocabulary)``."""
        positions = self.query_positions
        kept = logits_of(self.model, positions)
        cache = self.new_cache()
        if cache is not None:
            kept["past_key_values"] = cache
        with kept_state(self.model):
            logits: Tensor = self.model(**self.inputs, **kept).logits
        if logits.shape[1] == positions.shape[0]:
            return logits
        return logits[:, positions.to(logits.device)]

    def run(self) -> TargetLogits:
        """Runs the model; returns the targets' logits."""
        return TargetLogits.of(self.logits(), self.target_ids)
