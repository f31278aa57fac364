"""What the decoder layers compute for the last position of each pass, written down."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from captum_dexar.attention_gradients.layer_again import is_plain_linear, product_of
from captum_dexar.attention_gradients.layer_record import Axes, last_of, LayerRecord
from captum_dexar.attention_gradients.recorded_rows import Rows
from captum_dexar.attention_gradients.replaced_forward import (
    Forward,
    forward_of,
    replaced_forward,
)
from captum_dexar.model.decoder import Decoder, hidden_of, modules_of_layers
from torch import nn, Tensor


class StepRecorder:
    """Writes down the last position of every pass of a model within :meth:`watching`.

    Tensors are kept as the model made them, and looked at when they are wanted: a pass
    is not slowed down by more than a few calls of Python a layer.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): the layers that are recorded
        cross_attention (str or None): name of the attention module inside a layer that
            reads the image, if not the self-attention does
        with_attention (bool): whether queries and keys are recorded too
        with_products (bool): whether the outputs of the layers' projections behind
            their attention are

    Attributes:
        records (dict of int and LayerRecord): of each layer
        last_hidden (Rows): output of the last layer, ``(batch, passes, hidden size)``
        is_paused (bool): nothing is recorded for now
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
        self.records = {index: LayerRecord() for index in layers}
        self.last_hidden = Rows(axis=1)
        self.is_paused = False
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}
        self._layer_of, self._cross_attention = modules_of_layers(
            decoder, layers, cross_attention
        )

    def axes(self) -> dict[type, Axes]:
        """:meth:`LayerRecord.axes`, of all layers of a kind: some may be given a
        prompt's last position only."""
        axes: dict[type, Axes] = {}
        for index, record in self.records.items():
            axes.setdefault(type(self.decoder.layers[index]), {}).update(record.axes)
        return axes

    def num_bytes(self) -> int:
        """What has been recorded since :meth:`forget`."""
        return sum(record.num_bytes() for record in self.records.values())

    def forget(self) -> None:
        """Starts anew with the next pass."""
        for record in self.records.values():
            record.reset()
        self.last_hidden.reset()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it this thread's passes are recorded."""
        forwards: dict[nn.Module, Forward] = {}
        for index in self.layers:
            layer, record = self.decoder.layers[index], self.records[index]
            forwards[layer] = self._recorded_layer(index, layer, record)
            for module in layer.modules() if self.with_products else ():
                if is_plain_linear(module):
                    forwards[module] = self._recorded_projection(module, record)
        last = self.decoder.layers[-1]
        forwards[last] = self._recorded_last(forwards.get(last, forward_of(last)))
        try:
            with (
                replaced_forward(forwards),
                intercepted_attention(self._layer_of, self._tap),
            ):
                yield
        finally:
            self._masks.clear()

    def _recorded_layer(
        self, index: int, layer: nn.Module, record: LayerRecord
    ) -> Forward:
        original = forward_of(layer)
        is_first = index == self.layers[0]

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.is_paused:
                return original(*args, **kwargs)
            if is_first:
                self._masks.clear()
            record.starts(args, kwargs)
            output = original(*args, **kwargs)
            record.hidden_out.add(hidden_of(output))
            return output

        return forward

    def _recorded_projection(self, module: Any, record: LayerRecord) -> Forward:
        product = product_of(module)

        def forward(input: Tensor) -> Tensor:
            output = product(input)
            # What comes before the attention is not made again.
            if record.num_calls and not self.is_paused:
                record.projects(module, output)
            return output

        return forward

    def _recorded_last(self, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if not self.is_paused:
                self.last_hidden.add(hidden_of(output))
            return output

        return forward

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
        is_cross = module in self._cross_attention
        call = self.records[index].attends(module, eager_function, is_cross)
        call.kwargs = kwargs
        call.masked_by_kernel = attention_function is not eager_function
        call.device = value.device
        call.outputs.add(output[0])
        call.values.add(value)
        mask = self._mask_of_last(attention_mask)
        call.masks.append((mask, query.shape[2], key.shape[2]))
        if self.with_attention:
            call.queries.add(query)
            call.keys.add(key)
        return output

    def _mask_of_last(self, mask: Any) -> Any:
        """A mask without the rows that are not recorded, the same for all layers."""
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[2] == 1:
            return mask
        if id(mask) not in self._masks:
            self._masks[id(mask)] = (mask, last_of(mask, 2))
        return self._masks[id(mask)][1]
