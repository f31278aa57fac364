"""What both ways of computing attention gradients hand over, layer by layer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from captum_dexar.model.decoder import Decoder
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerGradients:
    """Gradients of one layer's own logit-lens reading, before the ``relu`` of (4).

    For explained query ``q`` of step ``t`` and head ``i`` they hold
    :math:`d o^{l,t} / d A^l_i[q, j]` for every key ``j``, zero where the query may not
    attend to the key.

    Attributes:
        layer (int): index of the decoder layer
        image (Tensor): image keys, ``(batch, steps, heads, image keys)``, in key order
        text_blocks (iterable of Tensor): all other keys, in blocks
            ``(batch, steps, heads, keys of the block)``; can be gone through once
        num_image_keys (Tensor): image keys that the query may attend to,
            ``(batch or 1, steps, heads or 1)``
        num_text_keys (Tensor): likewise for text keys
        steps (slice): which of the answer's steps these are; the steps of a long answer
            come in several parts
    """

    layer: int
    image: Tensor
    text_blocks: Iterable[Tensor]
    num_image_keys: Tensor
    num_text_keys: Tensor
    steps: slice = field(default_factory=lambda: slice(None))


Consumer = Callable[[LayerGradients], None]


class ExplainedPass(Protocol):
    """A forward pass in which some query positions are explained.

    Attributes:
        query_positions (Tensor): indices of the explained queries among the queries of the pass,
            ``(steps,)``, ascending
        target_ids (Tensor): token predicted by each of them, ``(batch, steps)``
        image_keys (Tensor): positions of the image tokens among all keys of the
            attention that reads them, ``(batch, image keys)``
        num_keys (int): keys of a self-attention: length of the whole sequence, cached
            part included
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if not the self-attention does
        first_step (int): number of the first explained step in its answer
    """

    @property
    def query_positions(self) -> Tensor: ...

    @property
    def target_ids(self) -> Tensor: ...

    @property
    def image_keys(self) -> Tensor: ...

    @property
    def num_keys(self) -> int: ...

    @property
    def cross_attention(self) -> str | None: ...

    @property
    def first_step(self) -> int: ...

    def run(self) -> TargetLogits:
        """Runs the model; returns its logits of the targets."""
        ...


class AttentionGradients(Protocol):
    """An engine: runs what is to be explained and feeds each layer to ``consume``.

    Returns what the model itself says of the targets.
    """

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> TargetLogits: ...
