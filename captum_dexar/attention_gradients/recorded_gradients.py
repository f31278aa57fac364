"""Attention gradients of tokens out of the very passes that predicted them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from captum_dexar.attention_gradients.closed_form import check_lens, Contraction
from captum_dexar.attention_gradients.decoder import Decoder
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.attention_gradients.layer_again import changed, is_close, run_again
from captum_dexar.attention_gradients.local_graphs import AttentionCall, LocalGraph
from captum_dexar.attention_gradients.logit_lens import LogitLens
from captum_dexar.attention_gradients.step_recorder import LayerRecord, StepRecorder
from captum_dexar.attention_gradients.target_logits import TargetLogits
from torch import nn, Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache


class NotRecorded(Exception):
    """A layer can't be run again from what was recorded of it."""


class RecordedGradients:
    """Explains the steps of an answer from what generating it has computed.

    While a model generates, each layer's input, attention output and projections at the
    last position are recorded. From these the layer's rear part is made again for many
    steps at once, as one small graph: no position goes through the model a second time,
    only its gradient does. What is explained is what was generated, whatever the cache.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the explained layers
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        num_keys (int): keys of a self-attention at the first pass: the prompt's length
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if not the self-attention does
        with_products (bool): whether the outputs of the layers' projections are taken
            over as well. That what depends on an argument of the layer is made again
            of the right rows can then not be seen in the layer's output: only for
            families of which it has been checked
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
        self.image_keys = image_keys
        self.num_keys = num_keys
        self.cross_attention = cross_attention
        self.attention_power = attention_power
        self.grad_kwargs = dict(grad_kwargs or {})
        self.recorder = StepRecorder(
            decoder,
            sorted(layers),
            cross_attention,
            bool(attention_power),
            with_products,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it the passes of this thread can be explained."""
        try:
            with self.recorder.watching():
                yield
        finally:
            self.recorder.forget()

    def explain(
        self,
        target_ids: Tensor,
        said: TargetLogits,
        first_step: int,
        consume: Consumer,
        contrast_ids: Tensor | None = None,
    ) -> None:
        """Explains what the passes since the last call predicted.

        Args:
            target_ids (Tensor): a token a pass, ``(batch, steps)``
            said (TargetLogits): their logits in these passes
            first_step (int): number of the first in the answer
            consume (Callable): takes the gradients of each layer
            contrast_ids (Tensor, optional): as in :class:`ClosedForm`. Default: None

        Raises:
            NotRecorded: a layer does more than what was recorded of it tells.
            RuntimeError: the logit lens does not give the model's logits.
        """
        lens = LogitLens(self.decoder, target_ids, contrast_ids)
        contraction = Contraction(
            lens,
            self.image_keys,
            self.cross_attention is not None,
            self.grad_kwargs,
            first_step,
        )
        num_steps = target_ids.shape[1]
        num_keys = self.num_keys + first_step + num_steps - 1
        recorder = self.recorder
        # Layers without attention have nothing to explain.
        records = [
            (i, record) for i, record in recorder.records.items() if record.calls
        ]
        if not records:
            raise NotRecorded("no layer called its attention function")
        check_lens(lens, recorder.last_hidden.whole(), said)
        # Layers that are run again are not to be recorded.
        recorder.is_paused = True
        try:
            for index, record in records:
                graph = self._graph(index, record, num_steps)
                contraction(graph, num_keys, consume)
        finally:
            recorder.is_paused = False
        recorder.forget()

    def _graph(self, index: int, record: LayerRecord, num_steps: int) -> LocalGraph:
        expected = record.hidden_out.whole()
        outputs = [call.outputs.whole() for call in record.calls]
        if expected.shape[1] != num_steps or outputs[0].shape[1] != num_steps:
            raise NotRecorded(f"layer {index} ran {expected.shape[1]} times")
        args, kwargs = _arguments(record)
        products = _products(record, expected)
        layer = self.decoder.layers[index]
        hidden = run_again(layer, args, kwargs, outputs, products)
        if not is_close(hidden.detach(), expected):
            raise NotRecorded(f"layer {index} gives something else when run again")
        power = self.attention_power
        calls = [
            AttentionCall(
                output,
                call.values.whole(),
                call.mask_key(),
                call.allowed,
                call.attention(power) if power else None,
                call.is_cross,
            )
            for output, call in zip(outputs, record.calls)
        ]
        return LocalGraph(index, hidden, outputs, None, calls, slice(0, num_steps))


class _FrozenCache:
    """A cache that can be read, and takes nothing up."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
        return keys, values


def _frozen(cache: Cache) -> Any:
    """What an encoder's keys are kept in is not needed: the layer has its output."""
    return None if isinstance(cache, EncoderDecoderCache) else _FrozenCache(cache)


def _arguments(record: LayerRecord) -> tuple[Any, dict[str, Any]]:
    """The last pass's arguments, with an entry for each recorded row where a row's own
    count behind the attention."""
    args, kwargs = changed(record.arguments, lambda tensor: tensor, _frozen)
    args = list(args)
    hidden = record.hidden_in.whole()
    if args:
        args[0] = hidden
    else:
        kwargs["hidden_states"] = hidden
    for place, rows in record.others.items():
        if rows.count == hidden.shape[1]:
            if isinstance(place, int):
                args[place] = rows.whole()
            else:
                kwargs[place] = rows.whole()
    return args, kwargs


def _products(record: LayerRecord, expected: Tensor) -> dict[nn.Linear, Tensor]:
    """Of every projection that ran once a pass, row by row."""
    return {
        module: rows.whole()
        for module, rows in record.products.items()
        if rows is not None and rows.count == expected.shape[1]
    }
