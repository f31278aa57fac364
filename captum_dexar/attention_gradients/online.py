"""Attention gradients of an answer's tokens from the passes that predict them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.contraction import Contraction
from captum_dexar.attention_gradients.gradients import Consumer
from captum_dexar.attention_gradients.layer_record import Axes, LayerRecord, Overwritten
from captum_dexar.attention_gradients.layer_replay import PostAttentionReplay
from captum_dexar.attention_gradients.local_graphs import LocalGraph, LocalGraphs
from captum_dexar.attention_gradients.step_recorder import StepRecorder
from captum_dexar.attention_gradients.user_changes import users_change
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.logit_lens import contrasted_lenses
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor


@dataclass(eq=False)
class OnlineGradients(ABC):
    """Explains the steps of an answer while the model generates it.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the explained layers
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        num_keys (int): keys of a self-attention at the first pass: the prompt's
            length, and an encoder's keys
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if the self-attention does not
        reuses_projections (bool): see :class:`PostAttentionReplay`
        attention_power (float, optional): as in :class:`ClosedForm`. Default: 0.0
        grad_kwargs (Mapping, optional): as in :class:`ClosedForm`. Default: None
        encoder_keys (int, optional): see :func:`encoder_first`. Default: 0
    """

    decoder: Decoder
    layers: list[int]
    image_keys: Tensor
    num_keys: int
    cross_attention: str | None
    reuses_projections: bool
    attention_power: float = 0.0
    grad_kwargs: Mapping[str, Any] | None = None
    encoder_keys: int = 0

    @abstractmethod
    def watching(self) -> AbstractContextManager[None]:
        """Within it the passes of this thread can be explained."""

    @abstractmethod
    def stop(self) -> None:
        """Records nothing from now on."""

    def num_bytes(self) -> int:
        """The size of what is recorded and not yet explained, where it matters."""
        return 0

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
            target_ids (Tensor): one token per pass, ``(batch, steps)``
            target_logits (TargetLogits): their logits in these passes
            first_step (int): number of the first in the answer
            consume (Callable): takes the gradients of each layer
            contrast_ids (Tensor, optional): as in :class:`ClosedForm`. Default: None

        Raises:
            Inconsistent: the passes are not what they should be, or a layer can't be
                replayed from what was recorded.
        """
        num_steps = target_ids.shape[1]
        last_hidden = self._last_hidden()
        if last_hidden.shape[:2] != target_ids.shape:
            passes, tokens = tuple(last_hidden.shape[:2]), tuple(target_ids.shape)
            raise Inconsistent(
                f"The last decoder layer ran for {passes} examples and passes, but "
                f"the tokens are {tokens}."
            )
        lenses = contrasted_lenses(self.decoder, target_ids, contrast_ids)
        lenses[0].check(last_hidden, target_logits)
        contraction = Contraction(
            lenses,
            self.image_keys,
            self.cross_attention is not None,
            self.attention_power,
            self.grad_kwargs,
            first_step,
        )
        for graph in self._graphs(num_steps):
            contraction(graph, self.num_keys + first_step + num_steps - 1, consume)
            # It holds the layer's weights, which may only be loaded for a while.
            del graph

    @abstractmethod
    def _last_hidden(self) -> Tensor:
        """The last layer's output, ``(batch, steps, hidden size)``."""

    @abstractmethod
    def _graphs(self, num_steps: int) -> Iterable[LocalGraph]:
        """Each layer's graph; the passes are forgotten."""


@dataclass(eq=False)
class RecordedGradients(OnlineGradients):
    """Explains many steps at once, from records of the passes.

    While the model generates, each layer's input, attention output and projections at
    the last position are recorded. Each layer is then replayed from its attention on,
    for many steps in one small graph: no position goes through the model a second time,
    only its gradient does. What is explained is what was generated, whatever the cache.

    It takes the arguments of :class:`OnlineGradients`.
    """

    def __post_init__(self) -> None:
        self._recorder = StepRecorder(
            self.decoder,
            sorted(self.layers),
            self.cross_attention,
            bool(self.attention_power),
            self.reuses_projections,
            self.encoder_keys,
        )
        self._replay = PostAttentionReplay(self.reuses_projections)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See :meth:`OnlineGradients.watching`."""
        try:
            with self._recorder.watching():
                yield
        finally:
            self._recorder.reset()

    def stop(self) -> None:
        """See :meth:`OnlineGradients.stop`."""
        self._recorder.is_paused = True
        self._recorder.reset()

    def num_bytes(self) -> int:
        """See :meth:`OnlineGradients.num_bytes`."""
        return self._recorder.num_bytes()

    def explain(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`OnlineGradients.explain`."""
        # Neither replayed layers are to be recorded, nor anything after a failure.
        self._recorder.is_paused = True
        try:
            super().explain(*args, **kwargs)
        except Overwritten as error:
            raise Inconsistent("A decoder layer works in place.") from error
        finally:
            self._recorder.reset()
        self._recorder.is_paused = False

    def _last_hidden(self) -> Tensor:
        # Layers without attention have nothing to explain.
        if not any(record.calls for record in self._recorder.records.values()):
            raise Inconsistent("No layer called its attention function.")
        return self._recorder.last_hidden.joined()

    def _graphs(self, num_steps: int) -> Iterator[LocalGraph]:
        axes = self._recorder.axes()
        masks: dict[Any, Tensor] = {}
        for index, record in self._recorder.records.items():
            if record.calls:
                yield self._graph(index, record, num_steps, axes, masks)
                record.reset()

    def _graph(
        self,
        index: int,
        record: LayerRecord,
        num_steps: int,
        axes: dict[type, Axes],
        masks: dict[Any, Tensor],
    ) -> LocalGraph:
        expected = record.hidden_out.joined()
        outputs = [call.outputs.joined() for call in record.calls]
        if expected.shape[1] != num_steps or outputs[0].shape[1] != num_steps:
            raise Inconsistent(
                f"Decoder layer {index} ran {expected.shape[1]} times for {num_steps} "
                "tokens."
            )
        layer = self.decoder.layers[index]
        change = users_change(layer)
        if record.is_hooked or change:
            # Hooks would be called again, and the layer's output may be theirs.
            raise Inconsistent(f"Decoder layer {index} was changed: {change}.")
        hidden = self._replay.replay(
            layer,
            record.joined_arguments(axes.get(type(layer), {})),
            outputs,
            record.joined_projections(),
            expected,
            record.joined_tails(),
        )
        if hidden is None:
            raise Inconsistent(
                f"Decoder layer {index} gives something else when it is replayed."
            )
        calls = [call.joined(index, masks, self.num_keys) for call in record.calls]
        return LocalGraph(index, hidden, outputs, calls, None, slice(0, num_steps))


@dataclass(eq=False)
class PositionGraphs(OnlineGradients):
    """Explains each step by itself, by graphs that its own pass has left.

    While the model generates, the part of each layer after its attention is run with a
    graph of one position. Which token it predicts need not be known before the gradient
    is taken. Nothing is run again, which for a single step would cost more than it
    saves.

    It takes the arguments of :class:`OnlineGradients`.
    """

    def __post_init__(self) -> None:
        # With the versions of their hidden states.
        self._kept: list[tuple[LocalGraph, int]] = []
        self._watched = LocalGraphs(
            self.decoder,
            self.layers,
            _last_position,
            lambda graph: self._kept.append((graph, graph.hidden._version)),
            self.cross_attention,
            max_positions=1,
            reuses_projections=self.reuses_projections,
            encoder_keys=self.encoder_keys,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See :meth:`OnlineGradients.watching`."""
        try:
            with self._watched.watching():
                yield
        finally:
            self._kept.clear()

    def stop(self) -> None:
        """See :meth:`OnlineGradients.stop`."""
        self._watched.is_paused = True
        self._kept.clear()

    def explain(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`OnlineGradients.explain`."""
        if self._watched.failure is not None:
            raise self._watched.failure
        # Nothing is watched after a failure.
        self._watched.is_paused = True
        try:
            super().explain(*args, **kwargs)
        finally:
            self._kept.clear()
            self._watched.last_hidden = None
        self._watched.is_paused = False

    def _last_hidden(self) -> Tensor:
        last_hidden = self._watched.last_hidden
        if last_hidden is None:
            raise Inconsistent("The last decoder layer did not run.")
        return last_hidden

    def _graphs(self, num_steps: int) -> list[LocalGraph]:
        layers = [graph.layer for graph, _ in self._kept]
        if not layers:
            raise Inconsistent("No layer called its attention function.")
        if len(set(layers)) < len(layers):
            raise Inconsistent("The decoder layers ran several times for one token.")
        for graph, version in self._kept:
            if graph.hidden._version != version:
                raise RuntimeError(
                    f"The output of decoder layer {graph.layer} was written into after "
                    "it was computed, so it can't be read any more. Let hooks return "
                    'new tensors, or use LayerDexAR(..., engine="autograd").'
                )
        return [graph for graph, _ in self._kept]


def _last_position(num_queries: int) -> Tensor | None:
    return None if num_queries == 1 else torch.tensor([num_queries - 1])
