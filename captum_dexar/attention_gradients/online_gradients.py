"""What explaining the steps of an answer while it is generated needs to know."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from captum_dexar.attention_gradients.closed_form import Contraction
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class OnlineGradients(ABC):
    """Explains the steps of an answer by the passes that predict them.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the explained layers
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        num_keys (int): keys of a self-attention at the first pass: the prompt's length
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if not the self-attention does
        with_products (bool): whether a layer that is run again takes over the outputs
            of its projections; see :class:`RearParts`
        attention_power (float): as in :class:`ClosedForm`
        grad_kwargs (Mapping or None): as in :class:`ClosedForm`
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int],
        image_keys: Tensor,
        num_keys: int,
        cross_attention: str | None,
        with_products: bool,
        attention_power: float = 0.0,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.decoder = decoder
        self.layers = layers
        self.image_keys = image_keys
        self.num_keys = num_keys
        self.cross_attention = cross_attention
        self.with_products = with_products
        self.attention_power = attention_power
        self.grad_kwargs = dict(grad_kwargs or {})

    @abstractmethod
    def watching(self) -> AbstractContextManager[None]:
        """Within it the passes of this thread can be explained; parameters have to be
        frozen."""

    def num_bytes(self) -> int:
        """What is recorded and not yet explained, where it counts."""
        return 0

    @abstractmethod
    def explain(
        self,
        target_ids: Tensor,
        target_logits: TargetLogits,
        first_step: int,
        consume: Consumer,
        contrast_ids: Tensor | None = None,
    ) -> None:
        """Explains what the passes since the last call predicted.

        Args:
            target_ids (Tensor): a token a pass, ``(batch, steps)``
            target_logits (TargetLogits): their logits in these passes
            first_step (int): number of the first in the answer
            consume (Callable): takes the gradients of each layer
            contrast_ids (Tensor, optional): as in :class:`ClosedForm`. Default: None

        Raises:
            NotRecorded: a layer does more than what was recorded of it tells.
            RuntimeError: the logit lens does not give the model's logits.
        """

    def _contraction(
        self, target_ids: Tensor, first_step: int, contrast_ids: Tensor | None
    ) -> Contraction:
        return Contraction(
            LogitLens(self.decoder, target_ids, contrast_ids),
            self.image_keys,
            self.cross_attention is not None,
            self.grad_kwargs,
            first_step,
        )
