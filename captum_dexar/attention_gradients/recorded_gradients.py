"""Attention gradients of tokens out of the very passes that predicted them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captum_dexar.attention_gradients.closed_form import check_lens
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.attention_gradients.layer_record import Axes, LayerRecord
from captum_dexar.attention_gradients.local_graphs import AttentionCall, LocalGraph
from captum_dexar.attention_gradients.online_gradients import OnlineGradients
from captum_dexar.attention_gradients.rear_parts import RearParts
from captum_dexar.attention_gradients.recorded_rows import Overwritten
from captum_dexar.attention_gradients.step_recorder import StepRecorder
from captum_dexar.decoding.step_attributions import NotRecorded
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


class RecordedGradients(OnlineGradients):
    """Explains the steps of an answer from what generating it has computed.

    While a model generates, each layer's input, attention output and projections at the
    last position are recorded. From these the layer's rear part is made again for many
    steps at once, as one small graph: no position goes through the model a second time,
    only its gradient does. What is explained is what was generated, whatever the cache.

    Args:
        *args, **kwargs: as in :class:`OnlineGradients`
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recorder = StepRecorder(
            self.decoder,
            sorted(self.layers),
            self.cross_attention,
            bool(self.attention_power),
            self.with_products,
        )
        self._rear_parts = RearParts(self.with_products)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See :meth:`OnlineGradients.watching`."""
        try:
            with self.recorder.watching():
                yield
        finally:
            self.recorder.forget()

    def num_bytes(self) -> int:
        """See :meth:`OnlineGradients.num_bytes`."""
        return self.recorder.num_bytes()

    def explain(
        self,
        target_ids: Tensor,
        target_logits: TargetLogits,
        first_step: int,
        consume: Consumer,
        contrast_ids: Tensor | None = None,
    ) -> None:
        """See :meth:`OnlineGradients.explain`."""
        contraction = self._contraction(target_ids, first_step, contrast_ids)
        num_steps = target_ids.shape[1]
        num_keys = self.num_keys + first_step + num_steps - 1
        recorder = self.recorder
        # Layers without attention have nothing to explain.
        records = [
            (i, record) for i, record in recorder.records.items() if record.calls
        ]
        if not records:
            raise NotRecorded("no layer called its attention function")
        # Layers that are run again are not to be recorded, nor is anything after a
        # failure.
        recorder.is_paused = True
        axes = recorder.axes()
        try:
            check_lens(contraction.lens, recorder.last_hidden.whole(), target_logits)
            for index, record in records:
                graph = self._graph(index, record, num_steps, axes)
                contraction(graph, num_keys, consume)
                record.reset()
        except Overwritten as error:
            raise NotRecorded("a layer works in place") from error
        finally:
            recorder.forget()
        recorder.is_paused = False

    def _graph(
        self,
        index: int,
        record: LayerRecord,
        num_steps: int,
        axes: dict[type, Axes],
    ) -> LocalGraph:
        expected = record.hidden_out.whole()
        outputs = [call.outputs.whole() for call in record.calls]
        if expected.shape[1] != num_steps or outputs[0].shape[1] != num_steps:
            raise NotRecorded(f"layer {index} ran {expected.shape[1]} times")
        layer = self.decoder.layers[index]
        hidden = self._rear_parts.again(
            layer,
            record.arguments(axes.get(type(layer), {})),
            outputs,
            record.row_products(),
            expected,
        )
        if hidden is None:
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
