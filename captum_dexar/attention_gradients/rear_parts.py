"""Making the parts of layers behind their attention again, without what is known."""

from collections.abc import Mapping
from typing import Any

from captum_dexar.attention_gradients.layer_again import depends_on, is_close, run_again
from torch import nn, Tensor


class RearParts:
    """Runs layers again from their attention on, and sees whether they are the same.

    Args:
        takes_over (bool): whether outputs of projections may be taken over, and those
            in front of the attention be left out. That what depends on an argument of
            the layer is made again of the right rows can then not be seen in the
            layer's output: only for families of which it has been checked
    """

    def __init__(self, takes_over: bool) -> None:
        self.takes_over = takes_over
        # Layers of which not only the attention depends on the projections before it.
        self._need_front: set[nn.Module] = set()

    def again(
        self,
        layer: nn.Module,
        arguments: tuple[Any, Mapping[str, Any]],
        outputs: list[Tensor],
        products: Mapping[nn.Linear, Tensor],
        expected: Tensor,
    ) -> Tensor | None:
        """The layer's hidden states at some rows, with a graph.

        Args:
            layer (nn.Module): the decoder layer; parameters must be frozen
            arguments (tuple): its positional and keyword arguments for the rows
            outputs (list of Tensor): as in :func:`run_again`
            products (Mapping): likewise
            expected (Tensor): its hidden states, ``(batch, rows, hidden size)``

        Returns:
            *Tensor*, or None if it gives something else when it is run again
        """
        args, kwargs = arguments
        if self.takes_over and layer not in self._need_front:
            front: list[Tensor] = []
            hidden = run_again(layer, args, kwargs, outputs, products, front=front)
            if is_close(hidden.detach(), expected) and not depends_on(hidden, front):
                return hidden
            self._need_front.add(layer)
        hidden = run_again(layer, args, kwargs, outputs, products)
        return hidden if is_close(hidden.detach(), expected) else None
