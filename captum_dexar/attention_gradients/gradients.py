"""What an engine computes: the attention gradients of one layer after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
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
            ``(batch, steps, heads, keys of the block)``; can be iterated over once
        num_image_keys (Tensor): image keys that the query may attend to,
            ``(batch or 1, steps, heads or 1)``
        num_text_keys (Tensor): likewise for text keys
        steps (slice): which of the answer's steps these are; the steps of a long answer
            come in several parts
        contrast (int): which contrast's reading was subtracted, where each token has
            several
        contrast_ids (Tensor or None): the tokens of this contrast, ``(batch, steps)``
    """

    layer: int
    image: Tensor
    text_blocks: Iterable[Tensor]
    num_image_keys: Tensor
    num_text_keys: Tensor
    steps: slice = field(default_factory=lambda: slice(None))
    contrast: int = 0
    contrast_ids: Tensor | None = None


Consumer = Callable[[LayerGradients], None]


class AttentionGradients(Protocol):
    """An engine: runs the model and passes each layer's gradients to ``consume``, those
    of one contrast after the other.

    Returns the model's own logits of the targets.
    """

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> TargetLogits: ...


def graph_nodes(tensor: Tensor) -> Iterator[Any]:
    """Every node of the graph that a tensor was computed by, once."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)


def gradients_of(
    reading: Tensor, attention: Sequence[Tensor], layer: int, **grad_kwargs: Any
) -> tuple[Tensor, ...]:
    """Differentiates a layer's reading with respect to what its attention gave.

    PyTorch leaves the part of an operation without a backward pass out of a gradient,
    with no more than a warning.

    Args:
        reading (Tensor): what is differentiated, 0-d
        attention (sequence of Tensor): attention outputs or probabilities
        layer (int): index of the decoder layer that is read
        **grad_kwargs: further arguments of ``torch.autograd.grad``

    Raises:
        RuntimeError: there is such an operation, or no graph from the attention to the
            reading.
    """
    for node in graph_nodes(reading):
        if node.name().endswith("NotImplemented"):
            raise RuntimeError(
                f"Decoder layer {layer} runs an operation that has no backward pass, "
                "so its attributions would be wrong. Some kernels for quantised "
                "weights have none, such as those of bitsandbytes for 4 bits on a CPU "
                "with AVX512-BF16. Load the model another way."
            )
    gradients: tuple[Tensor | None, ...] = (None,)
    if reading.requires_grad:
        gradients = torch.autograd.grad(
            reading, attention, **{"allow_unused": True, **grad_kwargs}
        )
    known = tuple(gradient for gradient in gradients if gradient is not None)
    if len(known) < len(attention):
        raise RuntimeError(
            f"The output of decoder layer {layer} does not depend on its attention by "
            "any graph, so there is no gradient. A hook or a module of yours detaches "
            "it, or runs under torch.no_grad."
        )
    return known
