"""What the decoder layers compute for the last position of each pass, written down."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.attention_gradients.allowed_keys import allowed_keys
from captum_dexar.attention_gradients.contraction import attention_rows
from captum_dexar.attention_gradients.decoder import Decoder, hidden_of
from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from captum_dexar.attention_gradients.layer_again import changed
from captum_dexar.attention_gradients.recorded_rows import GrowingKeys, RowBuffer
from torch import nn, Tensor

# Arguments of a layer that only its attention reads, which is not run again.
READ_BY_ATTENTION = {
    "attention_mask",
    "cache_position",
    "past_key_values",
    "position_embeddings",
    "position_ids",
}


class CallRecord:
    """One attention call of a layer, in all recorded passes."""

    def __init__(
        self, module: nn.Module, eager_function: AttentionFunction, is_cross: bool
    ) -> None:
        self.module = module
        self.eager_function = eager_function
        self.is_cross = is_cross
        self.outputs = RowBuffer(axis=1)
        self.queries = RowBuffer(axis=2)
        self.values = GrowingKeys(is_cross)
        self.keys = GrowingKeys(is_cross)
        self.masks: list[tuple[Any, int, int]] = []
        self.masked_by_kernel = False
        self.kwargs: dict[str, Any] = {}
        self.device = torch.device("cpu")

    def mask_key(self) -> tuple[Any, ...]:
        """The same for calls that mask alike, as long as they are kept."""
        return (
            *((id(mask), queries, keys) for mask, queries, keys in self.masks),
            self.masked_by_kernel,
            self.is_cross,
            self.kwargs.get("sliding_window"),
            self.kwargs.get("is_causal", getattr(self.module, "is_causal", True)),
            self.device,
        )

    def reset(self) -> None:
        """Starts anew with the next pass."""
        for kept in (self.outputs, self.queries, self.values, self.keys):
            kept.reset()
        self.masks = []

    def allowed(self) -> Tensor:
        """The keys that each row may attend to, ``(batch or 1, heads or 1, rows,
        keys)``."""
        rows = [self._allowed_row(*mask) for mask in self.masks]
        if self.is_cross:
            return torch.cat(rows, dim=2)
        num_keys = max(
            len(rows) - 1 - place + row.shape[3] for place, row in enumerate(rows)
        )
        # Each row's keys end at its own position, the last row's at the last key.
        return torch.cat(
            [
                nn.functional.pad(
                    row,
                    (num_keys - after - row.shape[3], after),
                )
                for row, after in zip(rows, reversed(range(len(rows))))
            ],
            dim=2,
        )

    def attention(self, power: float) -> Tensor:
        """Attention probabilities of the rows to a power, ``(batch, heads, rows,
        keys)``."""
        values = self.values.whole()
        allowed = self.allowed()[..., -values.shape[2] :]
        probabilities = attention_rows(
            self.eager_function,
            self.module,
            self.queries.whole(),
            self.keys.whole(),
            values,
            allowed,
            self.kwargs,
        )
        return probabilities.pow(power)

    def _allowed_row(self, mask: Any, num_queries: int, num_keys: int) -> Tensor:
        device = self.device
        allowed = allowed_keys(
            mask,
            num_queries=num_queries,
            num_keys=num_keys,
            rows=torch.tensor([num_queries - 1], device=device),
            masked_by_kernel=self.masked_by_kernel,
            module=self.module,
            kwargs=self.kwargs,
        )
        if allowed is None:
            return torch.ones(1, 1, 1, num_keys, dtype=torch.bool, device=device)
        return allowed.expand(-1, -1, 1, num_keys)


class LayerRecord:
    """One layer, in all recorded passes.

    Attributes:
        arguments (tuple): positional and keyword arguments of the last pass
        hidden_in, hidden_out (RowBuffer): ``(batch, passes, hidden size)``
        others (dict): further arguments with an entry a position, by their place
        products (dict): outputs of the layer's projections, ``(batch, passes,
            features)``; None of one that does not work row by row
        calls (list of CallRecord): in their order
    """

    def __init__(self) -> None:
        self.arguments: tuple[Any, dict[str, Any]] = ((), {})
        self.hidden_in = RowBuffer(axis=1)
        self.hidden_out = RowBuffer(axis=1)
        self.others: dict[int | str, RowBuffer] = {}
        self.products: dict[nn.Linear, RowBuffer | None] = {}
        self.calls: list[CallRecord] = []

    def reset(self) -> None:
        """Starts anew with the next pass, in the same memory."""
        self.arguments = ((), {})
        for call in self.calls:
            call.reset()
        buffers = (*self.others.values(), *self.products.values())
        for buffer in (self.hidden_in, self.hidden_out, *buffers):
            if buffer is not None:
                buffer.reset()


class StepRecorder:
    """Writes down the last position of every pass of a model within :meth:`watching`.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): the layers that are recorded
        cross_attention (str or None): name of the attention module inside a layer that
            reads the image, if not the self-attention does
        with_attention (bool): whether queries and keys are recorded too
        with_products (bool): whether the outputs of the layers' projections are
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int],
        cross_attention: str | None,
        with_attention: bool,
        with_products: bool,
    ) -> None:
        self.decoder = decoder
        self.layers = layers
        self.with_attention = with_attention
        self.with_products = with_products
        self.records: dict[int, LayerRecord] = {}
        self.last_hidden = RowBuffer(axis=1)
        self.is_paused = False
        self._layer_of: dict[nn.Module, int] = {}
        self._cross_attention: set[nn.Module] = set()
        # Along which axis of a layer's further arguments its positions lie.
        self._axes: dict[tuple[type, int | str], int] = {}
        self._call_of_pass: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}
        for index in layers:
            for name, module in decoder.layers[index].named_modules():
                self._layer_of[module] = index
                if name == cross_attention:
                    self._cross_attention.update(module.modules())

    def forget(self) -> None:
        """Starts anew with the next pass."""
        for record in self.records.values():
            record.reset()
        self.last_hidden.reset()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it this thread's passes are recorded."""
        thread = threading.get_ident()
        handles = []

        def hook(module: nn.Module, on_call: Any, index: int, is_before: bool) -> None:
            def called(module: nn.Module, *called_with: Any) -> None:
                if threading.get_ident() == thread and not self.is_paused:
                    on_call(index, module, *called_with)

            if is_before:
                handle = module.register_forward_pre_hook(called, with_kwargs=True)
            else:
                handle = module.register_forward_hook(called)
            handles.append(handle)

        for index in self.layers:
            layer = self.decoder.layers[index]
            hook(layer, self._starts, index, True)
            hook(layer, self._ends, index, False)
            for module in layer.modules() if self.with_products else ():
                # Of others' projections, or offloaded ones, products are not known.
                if type(module) is nn.Linear and "forward" not in vars(module):
                    hook(module, self._projects, index, False)
        if len(self.decoder.layers) - 1 not in self.layers:
            hook(self.decoder.layers[-1], self._ends_last, -1, False)
        try:
            with intercepted_attention(self._layer_of, self._tap):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _starts(self, index: int, layer: nn.Module, args: Any, kwargs: Any) -> None:
        record = self.records.setdefault(index, LayerRecord())
        self._call_of_pass[index] = 0
        if index == self.layers[0]:
            self._masks.clear()
        hidden = args[0] if args else kwargs["hidden_states"]
        record.hidden_in.add(hidden)
        length = hidden.shape[1]
        self._lengths[index] = length
        record.arguments = (args, kwargs)
        if length > 1:
            record.arguments = _of_last((args, kwargs), length)
        # Some may be given a prompt's last position only: as others of their kind.
        kind = type(layer)
        places: list[tuple[int | str, Any]] = [
            *enumerate(args),
            *kwargs.items(),
        ]
        for place, value in places:
            if value is hidden or place in READ_BY_ATTENTION:
                continue
            if isinstance(value, Tensor):
                if length > 1 and length in value.shape:
                    self._axes[kind, place] = value.shape.index(length)
                axis = self._axes.get((kind, place))
                if axis is not None:
                    record.others.setdefault(place, RowBuffer(axis)).add(value)

    def _projects(
        self, index: int, module: nn.Linear, args: Any, output: Tensor
    ) -> None:
        products = self.records[index].products
        # Of an encoder's states they have rows of their own.
        if output.dim() != 3 or output.shape[1] != self._lengths[index]:
            products[module] = None
            return
        if module not in products:
            products[module] = RowBuffer(axis=1)
        buffer = products[module]
        if buffer is not None:
            buffer.add(output)

    def _tap(
        self,
        index: int,
        attention_function: AttentionFunction,
        eager_function: AttentionFunction,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        output = attention_function(
            module, query, key, value, attention_mask, *args, **kwargs
        )
        record = self.records[index]
        number = self._call_of_pass[index]
        self._call_of_pass[index] = number + 1
        if number == len(record.calls):
            is_cross = module in self._cross_attention
            record.calls.append(CallRecord(module, eager_function, is_cross))
        call = record.calls[number]
        call.kwargs = kwargs
        call.masked_by_kernel = attention_function is not eager_function
        call.device = value.device
        call.outputs.add(output[0])
        call.values.add(value)
        num_queries = query.shape[2]
        mask = self._mask_of_last(attention_mask)
        call.masks.append((mask, num_queries, key.shape[2]))
        if self.with_attention:
            call.queries.add(query)
            call.keys.add(key)
        return output

    def _mask_of_last(self, mask: Any) -> Any:
        """A mask without the rows that are not recorded, the same for all layers."""
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[2] == 1:
            return mask
        if id(mask) not in self._masks:
            self._masks[id(mask)] = (mask, _last(mask, 2))
        return self._masks[id(mask)][1]

    def _ends(self, index: int, layer: nn.Module, args: Any, output: Any) -> None:
        self.records[index].hidden_out.add(hidden_of(output))
        if index == len(self.decoder.layers) - 1:
            self._ends_last(index, layer, args, output)

    def _ends_last(self, index: int, layer: nn.Module, args: Any, output: Any) -> None:
        self.last_hidden.add(hidden_of(output))


def _of_last(arguments: Any, length: int) -> Any:
    """A layer's arguments for the last of so many positions."""

    def of_last(tensor: Tensor) -> Tensor:
        if length not in tensor.shape:
            return tensor
        return _last(tensor, tensor.shape.index(length))

    return changed(arguments, of_last, lambda cache: cache)


def _last(tensor: Tensor, axis: int) -> Tensor:
    """The last entry along an axis; of several a copy, which does not hold them all."""
    if tensor.shape[axis] == 1:
        return tensor
    return tensor.narrow(axis, tensor.shape[axis] - 1, 1).clone()
