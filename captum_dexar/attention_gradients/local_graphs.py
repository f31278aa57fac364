"""The part of each decoder layer behind its attention, as a small graph of its own.

From a layer's attention output to its hidden states at the explained rows: what a
logit-lens reading depends on the layer's attention through. No graph spans two layers,
and none holds rows that are not explained.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.allowed_keys import allowed_keys
from captum_dexar.attention_gradients.contraction import attention_rows
from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from captum_dexar.attention_gradients.layer_again import (
    is_plain_linear,
    of_rows,
    product_of,
    run_again,
    without_cache,
)
from captum_dexar.attention_gradients.rear_parts import RearParts
from captum_dexar.attention_gradients.replaced_forward import Forward, replaced_forward
from captum_dexar.model.decoder import Decoder, hidden_of, modules_of_layers
from torch import nn, Tensor


@dataclass(eq=False)
class AttentionCall:
    """One call of the attention function.

    Attributes:
        output (Tensor): its output, ``(batch, queries, heads, head size)``; a leaf of
            the layer's graph, or a later call's, which depends on the first
        value (Tensor): what it read, ``(batch, value heads, keys, head size)``
        mask_key (tuple): the same for calls that mask alike
        allowed (Callable): gives the keys that the explained rows may attend to
        attention (Tensor or None): their probabilities, ``(batch, heads, rows, keys)``
        is_cross (bool): whether it is the cross-attention that reads the image
    """

    output: Tensor
    value: Tensor
    mask_key: tuple[Any, ...]
    allowed: Callable[[], Tensor | None]
    attention: Tensor | None
    is_cross: bool


@dataclass(eq=False)
class LocalGraph:
    """One layer's graph at some rows.

    Attributes:
        layer (int): index of the decoder layer
        hidden (Tensor): the layer's output at the rows, ``(batch, rows, hidden size)``
        outputs (list of Tensor): the attention outputs that gradients are wanted of,
            whose queries ``kept`` are the rows
        kept (Tensor or None): indices of the rows among the outputs' queries; None if
            they are all of them
        calls (list of AttentionCall): in their order, at all explained rows
        part (slice): which of the explained rows these are
    """

    layer: int
    hidden: Tensor
    outputs: list[Tensor]
    kept: Tensor | None
    calls: list[AttentionCall]
    part: slice


class LocalGraphs:
    """Makes the local graphs of every forward pass that runs within :meth:`watching`.

    Where every position of a pass is explained, its graph arises while the layer runs.
    Where only some are, as in a pass over a prompt, the layer runs without a graph, and
    its rear part once more for those rows, ``max_rows`` at a time, on the attention
    outputs of the first run.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): the layers wanted
        rows (Callable): the explained rows of a pass with so many positions, ascending,
            ``(rows,)``; None for all
        consume (Callable): takes each graph
        attention_power (float): other than 0, attention probabilities are read as well
        cross_attention (str or None): name of the attention module inside a layer that
            reads the image, if not the self-attention does
        max_rows (int): rows of one graph, where a layer is run again
        with_products (bool): whether it then takes over the outputs of its projections;
            see :class:`RearParts`
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int],
        rows: Callable[[int], Tensor | None],
        consume: Callable[[LocalGraph], object],
        attention_power: float,
        cross_attention: str | None,
        max_rows: int,
        with_products: bool,
    ) -> None:
        self.decoder = decoder
        self.rows = rows
        self.consume = consume
        self.attention_power = attention_power
        self.max_rows = max_rows
        self.last_hidden: Tensor | None = None
        self._hooked = sorted({*layers, len(decoder.layers) - 1})
        self._layer_of, self._cross_attention = modules_of_layers(
            decoder, layers, cross_attention
        )
        self._arguments: dict[int, tuple[Any, Any]] = {}
        self._calls: dict[int, list[AttentionCall]] = {}
        self._masks: dict[int, Any] = {}
        self._lengths: dict[int, int] = {}
        self._with_products = with_products
        self._products: dict[int, dict[nn.Linear, Tensor]] = {}
        self._rear_parts = RearParts(with_products)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it this thread's passes are watched; gradients are off."""
        thread = threading.get_ident()

        def starts(index: int, args: Any, kwargs: Any) -> None:
            if threading.get_ident() == thread:
                self._arguments[index] = (args, kwargs)
                hidden = args[0] if args else kwargs["hidden_states"]
                self._lengths[index] = hidden.shape[1]

        def ends(index: int, output: Any) -> Any:
            if threading.get_ident() == thread:
                return self._finish(index, output)
            return None

        handles = []
        for index in self._hooked:
            layer = self.decoder.layers[index]
            handles.append(
                layer.register_forward_pre_hook(
                    lambda module, args, kwargs, index=index: starts(
                        index, args, kwargs
                    ),
                    with_kwargs=True,
                )
            )
            handles.append(
                layer.register_forward_hook(
                    lambda module, args, output, index=index: ends(index, output)
                )
            )
        forwards: dict[nn.Module, Forward] = {}
        if self._with_products:
            forwards = {
                module: self._known_later(module, layer)
                for module, layer in self._layer_of.items()
                if is_plain_linear(module)
            }
        try:
            with (
                torch.no_grad(),
                replaced_forward(forwards),
                intercepted_attention(self._layer_of, self._tap),
            ):
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._arguments.clear()
            self._calls.clear()
            self._products.clear()
            self._masks.clear()

    def _tap(
        self,
        layer: int,
        attention_function: AttentionFunction,
        eager_function: AttentionFunction,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """Runs the model's own attention and, where a graph arises at once, hands its
        output back as a leaf.

        A later call of the same layer (cross-attention) keeps its graph: it depends on
        the first by its query.
        """
        output, *rest = attention_function(
            module, query, key, value, attention_mask, *args, **kwargs
        )
        num_queries, num_keys = query.shape[2], key.shape[2]
        rows = self.rows(num_queries)
        if rows is None and not output.requires_grad:
            output = output.detach().requires_grad_()
        masked_by_kernel = attention_function is not eager_function

        def wanted() -> Tensor:
            indices = torch.arange(num_queries) if rows is None else rows
            return indices.to(query.device)

        def allowed() -> Tensor | None:
            return allowed_keys(
                attention_mask,
                num_queries=num_queries,
                num_keys=num_keys,
                rows=wanted(),
                masked_by_kernel=masked_by_kernel,
                module=module,
                kwargs=kwargs,
            )

        attention = None
        if self.attention_power:
            attention = attention_rows(
                eager_function,
                module,
                query[:, :, wanted()],
                key,
                value,
                allowed(),
                kwargs,
            ).pow(self.attention_power)
        is_cross = module in self._cross_attention
        # An object's id says which mask it is only as long as the object lives.
        self._masks[id(attention_mask)] = attention_mask
        mask_key = (
            id(attention_mask),
            masked_by_kernel,
            num_keys,
            is_cross,
            kwargs.get("sliding_window"),
            kwargs.get("is_causal", getattr(module, "is_causal", True)),
            value.device,
        )
        self._calls.setdefault(layer, []).append(
            AttentionCall(
                output, value.detach(), mask_key, allowed, attention, is_cross
            )
        )
        # From here to the end of the layer a graph is kept; its hook ends it.
        torch.set_grad_enabled(rows is None)
        return (output, *rest)

    def _known_later(self, module: Any, layer: int) -> Forward:
        """A projection whose output at the explained rows is kept, for when its layer
        is run again."""
        product = product_of(module)

        def forward(input: Tensor) -> Tensor:
            output = product(input)
            # What comes before the attention is not made again.
            if layer in self._calls and output.dim() == 3:
                rows = self.rows(output.shape[1])
                if rows is not None and output.shape[1] == self._lengths[layer]:
                    kept = self._products.setdefault(layer, {})
                    kept[module] = output[:, rows.to(output.device)]
            return output

        return forward

    def _finish(self, index: int, output: Any) -> Any:
        torch.set_grad_enabled(False)
        hidden = hidden_of(output)
        rows = self.rows(hidden.shape[1])
        arguments = self._arguments.pop(index)
        calls = self._calls.pop(index, [])
        products = self._products.pop(index, {})
        if index == len(self.decoder.layers) - 1:
            last = hidden if rows is None else hidden[:, rows.to(hidden.device)]
            self.last_hidden = last.detach()
        if calls and rows is None:
            outputs = [call.output for call in calls]
            self.consume(
                LocalGraph(
                    index, hidden, outputs, None, calls, slice(0, hidden.shape[1])
                )
            )
        elif calls and rows is not None:
            for start in range(0, len(rows), self.max_rows):
                part = slice(start, min(start + self.max_rows, len(rows)))
                known = {module: kept[:, part] for module, kept in products.items()}
                self.consume(
                    self._graph_again(index, arguments, hidden, calls, known, part)
                )
        return _detached(output)

    def _graph_again(
        self,
        index: int,
        arguments: tuple[Any, Mapping[str, Any]],
        hidden: Tensor,
        calls: list[AttentionCall],
        products: Mapping[nn.Linear, Tensor],
        part: slice,
    ) -> LocalGraph:
        """The graph of some rows, by running the layer again on the attention outputs
        that are known."""
        rows = self.rows(hidden.shape[1])
        assert rows is not None
        rows = rows[part].to(hidden.device)
        layer = self.decoder.layers[index]
        outputs = [call.output[:, rows.to(call.output.device)] for call in calls]
        arguments_of_rows = of_rows(arguments, hidden.shape[1], rows)
        again = self._rear_parts.again(
            layer, arguments_of_rows, outputs, products, hidden[:, rows]
        )
        if again is not None:
            return LocalGraph(index, again, outputs, None, calls, part)
        # What this layer does is not told by the rows alone: the graph of all rows.
        args, kwargs = without_cache(arguments)
        outputs = [call.output.detach() for call in calls]
        again = run_again(layer, args, kwargs, outputs)
        with torch.enable_grad():
            again = again[:, rows]
        return LocalGraph(index, again, outputs, rows, calls, part)


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(item) for item in output)
    return output.detach() if isinstance(output, Tensor) else output
