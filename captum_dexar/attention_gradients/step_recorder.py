"""Recording what the decoder layers compute for the last position of each pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar.attention_gradients.attention_call import AttentionCall, encoder_first
from captum_dexar.attention_gradients.attention_tail import AttentionTails
from captum_dexar.attention_gradients.interception import (
    Forward,
    forward_of,
    intercepted_attention,
    replaced_forward,
)
from captum_dexar.attention_gradients.layer_record import (
    Axes,
    last_of,
    LayerRecord,
    Rows,
)
from captum_dexar.attention_gradients.layer_replay import is_plain_linear, product_of
from captum_dexar.model.changes import users_hook
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.layers import modules_of_layers
from captum_dexar.model.states import position_axis, states_of
from torch import nn, Tensor


class StepRecorder:
    """Records the last position of every pass of a model within :meth:`watching`.

    Tensors are kept as the model made them, and only processed when a step is
    explained: a pass is slowed down by no more than a few Python calls per layer.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): the layers that are recorded
        cross_attention (str or None): name of the attention module inside a layer that
            reads the image, if the self-attention does not
        with_attention (bool): whether queries and keys are recorded too
        with_projections (bool): whether the outputs of the layers' projections after
            their attention are
        encoder_keys (int, optional): see :func:`encoder_first`. Default: 0

    Attributes:
        records (dict of int and LayerRecord): of each layer
        last_hidden (Rows): states of the last layer, ``(batch, passes, ..., hidden
            size)``
        is_paused (bool): whether nothing is recorded at the moment
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int],
        cross_attention: str | None,
        with_attention: bool,
        with_projections: bool,
        encoder_keys: int = 0,
    ) -> None:
        self.decoder = decoder
        self.layers = layers
        self.with_projections = with_projections
        self.encoder_keys = encoder_keys
        self.records = {
            index: LayerRecord(with_attention, position_axis(decoder.layers[index]))
            for index in layers
        }
        self.last_hidden = Rows(axis=1)
        self.is_paused = False
        self._tails = AttentionTails(
            decoder.layers,
            layers,
            lambda index, tail: self.records[index].add_tail(tail),
        )
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}
        self._layer_of, self._cross_attention = modules_of_layers(
            decoder.layers, layers, cross_attention
        )

    def axes(self) -> dict[type, Axes]:
        """:attr:`LayerRecord.axes` by type of layer: some layers may only be given a
        prompt's last position, and can't show them."""
        axes: dict[type, Axes] = {}
        for index, record in self.records.items():
            axes.setdefault(type(self.decoder.layers[index]), {}).update(record.axes)
        return axes

    def num_bytes(self) -> int:
        """What has been recorded since :meth:`reset`."""
        return sum(record.num_bytes() for record in self.records.values())

    def reset(self) -> None:
        """Forgets all passes."""
        for record in self.records.values():
            record.reset()
        self.last_hidden.reset()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it this thread's passes are recorded."""
        forwards: dict[nn.Module, Forward] = self._tails.forwards()
        for index in self.layers:
            layer, record = self.decoder.layers[index], self.records[index]
            forwards[layer] = self._recorded_layer(index, layer, record)
            for module in layer.modules() if self.with_projections else ():
                if is_plain_linear(module):
                    forwards[module] = self._recorded_projection(module, record)
        last = self.decoder.layers[-1]
        forwards[last] = self._recorded_last(last, forwards.get(last, forward_of(last)))
        intercepted = intercepted_attention(
            self._layer_of, self._tap, self._cross_attention
        )
        try:
            with replaced_forward(forwards), intercepted:
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
            record.add_pass(args, kwargs)
            record.is_hooked |= users_hook(layer) is not None
            output = original(*args, **kwargs)
            record.hidden_out.add(states_of(layer, args, kwargs, output))
            return output

        return forward

    def _recorded_projection(self, module: Any, record: LayerRecord) -> Forward:
        product = product_of(module)

        def forward(input: Tensor) -> Tensor:
            output = product(input)
            # What comes before the attention is not replayed.
            if record.num_calls and not self.is_paused:
                record.add_projection(module, output)
            return output

        return forward

    def _recorded_last(self, layer: nn.Module, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if not self.is_paused:
                self.last_hidden.add(states_of(layer, args, kwargs, output))
            return output

        return forward

    def _tap(self, call: AttentionCall) -> Any:
        output = call.run()
        kept = encoder_first(call, self.encoder_keys)
        self.records[call.layer].add_call(kept, output[0], self._mask_of_last)
        if self._tails.is_wanted and not self.is_paused:
            return (self._tails.begin(output[0]), *output[1:])
        return output

    def _mask_of_last(self, mask: Any) -> Any:
        """The last query's row of a mask, one object for all layers."""
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[2] == 1:
            return mask
        if id(mask) not in self._masks:
            self._masks[id(mask)] = (mask, last_of(mask, 2))
        return self._masks[id(mask)][1]
