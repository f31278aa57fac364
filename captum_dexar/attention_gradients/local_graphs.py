"""The part of each decoder layer after its attention, as a small graph of its own.

It leads from a layer's attention output to its hidden states at the explained
positions: all that a logit-lens reading depends on the layer's attention through. No
graph spans two layers, and none holds positions that are not explained.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from captum_dexar.attention_gradients.attention_call import (
    AttentionCall,
    encoder_first,
    narrowed,
)
from captum_dexar.attention_gradients.attention_tail import (
    AttentionTail,
    AttentionTails,
)
from captum_dexar.attention_gradients.backward_guard import guarded_projections
from captum_dexar.attention_gradients.interception import (
    Forward,
    intercepted_attention,
    replaced_forward,
)
from captum_dexar.attention_gradients.layer_replay import (
    at_positions,
    is_plain_linear,
    PostAttentionReplay,
    product_of,
)
from captum_dexar.attention_gradients.user_changes import users_change
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.layers import hidden_argument, modules_of_layers, with_hidden
from captum_dexar.model.states import position_axis, states_of
from captum_dexar.model.thread_hooks import forward_hooks
from torch import nn, Tensor


@dataclass(eq=False)
class LocalGraph:
    """One layer's graph at some explained positions.

    Attributes:
        layer (int): index of the decoder layer
        hidden (Tensor): the layer's states, ``(batch, positions, ..., hidden size)``
        outputs (list of Tensor): the attention outputs that gradients are wanted of,
            ``(batch, queries, heads, head size)``
        calls (list of AttentionCall): the calls that gave them, of the whole pass
        query_positions (Tensor or None): all explained queries of the calls,
            ``(steps,)``; None if every one is
        steps (slice): which of them this graph is for
        output_positions (Tensor or None): where these are among the outputs' queries;
            None if the outputs have no others. Default: None
        is_shared (bool): whether further local graphs lead through the same nodes, so
            that they have to be kept. Default: False
    """

    layer: int
    hidden: Tensor
    outputs: list[Tensor]
    calls: list[AttentionCall]
    query_positions: Tensor | None
    steps: slice
    output_positions: Tensor | None = None
    is_shared: bool = False


class LocalGraphs:
    """Makes the local graphs of every forward pass that runs within :meth:`watching`.

    Where every position of a pass is explained, a layer's graph is built while it runs;
    where it does not keep positions apart, they are backpropagated one by one. Where
    only some are, as in a pass over a prompt, the layer runs without a graph, and
    is then replayed from its attention on for those positions. If that gives something
    else than the layer did, the pass is :class:`Inconsistent`, and can be run again
    with graphs that are built while it runs. So are those of a layer that a user has
    changed (by a hook, say), which is never replayed.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of the explained layers
        query_positions (Callable): the explained positions of a pass with so many
            positions, ascending, ``(steps,)``; None for all
        consume (Callable): takes each graph
        cross_attention (str or None): name of the attention module inside a layer that
            reads the image, if the self-attention does not
        max_positions (int): positions per graph, where a layer is replayed
        reuses_projections (bool): see :class:`PostAttentionReplay`
        replays (bool, optional): False builds every graph while the layer runs, of all
            positions of the pass, and backpropagates step by step. Default: True
        encoder_keys (int, optional): see :func:`encoder_first`. Default: 0

    Attributes:
        is_paused (bool): whether passes are not watched at the moment
        failure (Inconsistent or None): why a pass could not be explained; it was run to
            its end, and nothing is watched after it
        last_hidden (Tensor or None): states of the last layer at the explained
            positions of the last pass, ``(batch, steps, ..., hidden size)``
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int],
        query_positions: Callable[[int], Tensor | None],
        consume: Callable[[LocalGraph], object],
        cross_attention: str | None,
        max_positions: int,
        reuses_projections: bool,
        replays: bool = True,
        encoder_keys: int = 0,
    ) -> None:
        self.decoder = decoder
        self.query_positions = query_positions
        self.consume = consume
        self.max_positions = max_positions
        self.encoder_keys = encoder_keys
        self.is_paused = False
        self.failure: Inconsistent | None = None
        self.last_hidden: Tensor | None = None
        self._hooked = sorted({*layers, len(decoder.layers) - 1})
        self._layer_of, self._cross_attention = modules_of_layers(
            decoder.layers, layers, cross_attention
        )
        self._replay = PostAttentionReplay(reuses_projections)
        self._changed = {
            index
            for index in layers
            if not replays or users_change(decoder.layers[index])
        }
        self._tails = AttentionTails(
            decoder.layers, {*layers} - self._changed, self._keep_tail
        )
        self._tail: dict[int, AttentionTail] = {}
        # Of the layer that is running; its calls with their outputs.
        self._calls: dict[int, list[tuple[AttentionCall, Tensor]]] = {}
        self._projections: dict[int, dict[nn.Linear, Tensor | None]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it this thread's passes are watched; gradients are off."""
        hooks = {
            self.decoder.layers[index]: partial(self._finish, index)
            for index in self._hooked
        }
        hooked = forward_hooks(hooks, with_kwargs=True)
        forwards: dict[nn.Module, Forward] = self._tails.forwards()
        for index in self._hooked:
            forwards |= guarded_projections(self.decoder.layers[index])
        if self._replay.reuses_projections:
            for module, layer in self._layer_of.items():
                if layer not in self._changed and is_plain_linear(module):
                    forwards[module] = self._kept_projection(module, layer)
        intercepted = intercepted_attention(
            self._layer_of, self._tap, self._cross_attention
        )
        try:
            with torch.no_grad(), hooked, replaced_forward(forwards), intercepted:
                yield
        finally:
            self._calls.clear()
            self._projections.clear()
            self._tail.clear()

    def _keep_tail(self, index: int, tail: AttentionTail) -> None:
        self._tail[index] = tail

    def _tap(self, call: AttentionCall) -> Any:
        """Runs the model's own attention and, where a graph is built at once, returns
        its output as a leaf.

        A later call of the same layer (cross-attention) keeps its graph: its query
        depends on the first.
        """
        output, *rest = call.run()
        if self.is_paused:
            return (output, *rest)
        builds_graph = call.layer in self._changed
        builds_graph |= self.query_positions(call.query.shape[2]) is None
        if builds_graph and not output.requires_grad:
            output = output.detach().requires_grad_()
        kept = encoder_first(call, self.encoder_keys)
        self._calls.setdefault(call.layer, []).append((kept, output))
        if not builds_graph and self._tails.is_wanted:
            return (self._tails.begin(output), *rest)
        # From here to the end of the layer a graph is kept; its hook ends it.
        torch.set_grad_enabled(builds_graph)
        return (output, *rest)

    def _kept_projection(self, module: Any, layer: int) -> Forward:
        """A projection whose output at the explained positions is kept for replaying
        its layer."""
        product = product_of(module)

        def forward(input: Tensor) -> Tensor:
            output = product(input)
            # What comes before the attention is not replayed.
            if layer in self._calls and output.dim() == 3:
                num_queries = self._calls[layer][0][0].query.shape[2]
                positions = self.query_positions(num_queries)
                if positions is not None and output.shape[1] == num_queries:
                    kept = self._projections.setdefault(layer, {})
                    rows = output[:, positions.to(output.device)]
                    # Of two calls in a layer neither is known by the module.
                    kept[module] = None if module in kept else rows
            return output

        return forward

    def _finish(
        self,
        index: int,
        module: nn.Module,
        args: Any,
        kwargs: Any,
        output: Any,
    ) -> Any:
        """Passes on the graph of a layer that has run."""
        if self.is_paused:
            return output
        # While the graph is still built.
        hidden = states_of(module, args, kwargs, output)
        torch.set_grad_enabled(False)
        num_queries = hidden.shape[1]
        positions = self.query_positions(num_queries)
        calls = self._calls.pop(index, [])
        projections = self._projections.pop(index, {})
        if index == len(self.decoder.layers) - 1:
            last = hidden
            if positions is not None:
                last = hidden[:, positions.to(hidden.device)]
            self.last_hidden = last.detach()
        if calls:
            try:
                for graph in self._graphs(
                    index, (args, kwargs), hidden, calls, projections, positions
                ):
                    self.consume(graph)
            except Inconsistent as failure:
                # The pass may be the user's own: it goes on.
                self.failure, self.is_paused = failure, True
        self._tail.pop(index, None)
        return _detached(output)

    def _graphs(
        self,
        index: int,
        arguments: tuple[Any, Mapping[str, Any]],
        hidden: Tensor,
        calls: list[tuple[AttentionCall, Tensor]],
        projections: Mapping[nn.Linear, Tensor | None],
        positions: Tensor | None,
    ) -> Iterator[LocalGraph]:
        """The graphs of a layer that has run."""
        attention_calls, outputs = map(list, zip(*calls))
        layer_mask = arguments[1].get("attention_mask")
        for call in attention_calls:
            if not call.is_cross:
                call.layer_mask = narrowed(layer_mask, call.attention_mask)
        if positions is None:
            num_queries = hidden.shape[1]
            if self._keeps_apart(index, arguments, hidden, outputs):
                steps = slice(0, num_queries)
                yield LocalGraph(index, hidden, outputs, attention_calls, None, steps)
            else:
                every = torch.arange(num_queries)
                yield from _step_by_step(index, hidden, outputs, attention_calls, every)
        elif index in self._changed:
            yield from _step_by_step(index, hidden, outputs, attention_calls, positions)
        else:
            for start in range(0, len(positions), self.max_positions):
                steps = slice(start, min(start + self.max_positions, len(positions)))
                known = {
                    module: kept[:, steps]
                    for module, kept in projections.items()
                    if kept is not None
                }
                tail = self._tail.get(index) if len(calls) == 1 else None
                replayed = self._replayed(
                    index, arguments, hidden, outputs, known, positions[steps], tail
                )
                if replayed is None:
                    raise Inconsistent(
                        f"Decoder layer {index} gives something else when it is "
                        f"replayed at {steps.stop - steps.start} of its "
                        f"{hidden.shape[1]} positions."
                    )
                yield LocalGraph(index, *replayed, attention_calls, positions, steps)

    def _keeps_apart(
        self,
        index: int,
        arguments: tuple[Any, Mapping[str, Any]],
        hidden: Tensor,
        outputs: list[Tensor],
    ) -> bool:
        """Whether each position depends on its own attention output alone, so that the
        readings of all positions can be differentiated at once.

        A convolution behind the attention, say, mixes them. The last position, which
        would read the others, is then something else when it is replayed by itself.
        """
        last = hidden.shape[1] - 1
        if last == 0:
            return True
        if index in self._changed:
            return False
        alone = torch.tensor([last])
        return (
            self._replayed(index, arguments, hidden.detach(), outputs, {}, alone)
            is not None
        )

    def _replayed(
        self,
        index: int,
        arguments: tuple[Any, Mapping[str, Any]],
        hidden: Tensor,
        outputs: list[Tensor],
        projections: Mapping[nn.Linear, Tensor],
        positions: Tensor,
        tail: AttentionTail | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """A layer's states at some positions and its attention outputs there, by
        replaying it on these; None if it gives something else."""
        layer, num_queries = self.decoder.layers[index], hidden.shape[1]
        positions = positions.to(hidden.device)
        args, kwargs = at_positions(arguments, num_queries, positions)
        # The axis is known here, and there may be others of that length.
        taken = hidden_argument(*arguments)
        taken = taken.index_select(position_axis(layer), positions.to(taken.device))
        at_these = [output[:, positions.to(output.device)] for output in outputs]
        replayed = self._replay.replay(
            layer,
            with_hidden(args, kwargs, taken),
            at_these,
            projections,
            hidden[:, positions],
            None if tail is None else [(tail, positions)],
        )
        return None if replayed is None else (replayed, at_these)


def _step_by_step(
    index: int,
    hidden: Tensor,
    outputs: list[Tensor],
    calls: list[AttentionCall],
    positions: Tensor,
) -> Iterator[LocalGraph]:
    """One graph per explained position, whose nodes they share: a layer may not treat
    positions independently."""
    for step, position in enumerate(positions.tolist()):
        with torch.enable_grad():
            explained = hidden[:, [position]]
        yield LocalGraph(
            index,
            explained,
            outputs,
            calls,
            positions,
            slice(step, step + 1),
            positions[[step]],
            is_shared=True,
        )


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(item) for item in output)
    return output.detach() if isinstance(output, Tensor) else output
