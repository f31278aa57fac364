"""Running a decoder layer again from its attention on, with a graph.

What its first run has computed is reused: the attention outputs, and the outputs of its
projections where that is allowed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.attention_tail import KnownTail, Runs
from captum_dexar.attention_gradients.backward_guard import guarded_projections
from captum_dexar.attention_gradients.gradients import graph_nodes
from captum_dexar.attention_gradients.interception import (
    intercepted_attention,
    is_unpatched,
    replaced_forward,
)
from captum_dexar.model.changes import has_plain_weight
from captum_dexar.model.consistency import are_same, mismatch, whole_mismatches
from captum_dexar.model.layers import hidden_argument
from captum_dexar.model.states import positions_first, states_of
from torch import nn, Tensor
from transformers.cache_utils import Cache

Projection = Callable[[Tensor], Tensor]
# Values as they are computed again, and as they were.
Compared = list[tuple[Tensor, Tensor]]
# Features of a known projection that are computed again.
CHECKED_FEATURES = 4


class PostAttentionReplay:
    """Replays layers from their attention on, and checks the result.

    Args:
        reuses_projections (bool): whether known outputs of projections are reused, and
            projections before the attention left out. A few features of each known
            output are computed again from what the replay feeds the projection with.
    """

    def __init__(self, reuses_projections: bool) -> None:
        self.reuses_projections = reuses_projections
        # Layers in which more than the attention depends on the projections before it.
        self._need_all: set[nn.Module] = set()

    def replay(
        self,
        layer: nn.Module,
        arguments: tuple[Any, Mapping[str, Any]],
        outputs: list[Tensor],
        projections: Mapping[nn.Linear, Tensor],
        expected: Tensor,
        tails: Runs | None = None,
    ) -> Tensor | None:
        """The layer's hidden states at some positions, with a graph.

        Args:
            layer (nn.Module): the decoder layer
            arguments (tuple): its positional and keyword arguments for the positions
            outputs (list of Tensor): as in :func:`replay_layer`
            projections (Mapping): likewise
            expected (Tensor): its states, ``(batch, positions, ..., hidden size)``
            tails (Runs, optional): as in :func:`replay_layer`. Default: None

        Returns:
            *Tensor*, or None if the replay fails or gives something else
        """
        args, kwargs = arguments
        change = None
        hidden_in = positions_first(layer, hidden_argument(args, kwargs))
        if hidden_in.shape == expected.shape:
            change = expected - hidden_in.to(expected.device)
        if tails is not None:
            compared: Compared = []
            known = projections if self.reuses_projections else None
            hidden = _replayed(
                layer, args, kwargs, outputs, known, compared, tails=tails
            )
            if hidden is not None:
                mismatches = [mismatch(hidden.detach(), expected, change)]
                if are_same(mismatches + whole_mismatches(compared)):
                    return hidden
        elif self.reuses_projections and layer not in self._need_all:
            left_out: list[Tensor] = []
            compared = []
            hidden = _replayed(
                layer, args, kwargs, outputs, projections, compared, left_out
            )
            if hidden is not None:
                mismatches = [mismatch(hidden.detach(), expected, change)]
                mismatches += whole_mismatches(compared)
                if are_same(mismatches) and not depends_on(hidden, left_out):
                    return hidden
            self._need_all.add(layer)
        hidden = _replayed(layer, args, kwargs, outputs)
        if hidden is None:
            return None
        is_same = are_same([mismatch(hidden.detach(), expected, change)])
        return hidden if is_same else None


def _replayed(
    layer: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any],
    outputs: list[Tensor],
    projections: Mapping[nn.Linear, Tensor] | None = None,
    compared: Compared | None = None,
    left_out: list[Tensor] | None = None,
    tails: Runs | None = None,
) -> Tensor | None:
    """As :func:`replay_layer`; None if the layer can't be run at these positions."""
    try:
        return replay_layer(
            layer,
            args,
            kwargs,
            outputs,
            projections,
            compared=compared,
            left_out=left_out,
            tails=tails,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # Adapters and wrappers may rely on the shapes of the whole pass.
        return None


def replay_layer(
    layer: Any,
    args: Any,
    kwargs: Mapping[str, Any],
    outputs: list[Tensor],
    projections: Mapping[nn.Linear, Tensor] | None = None,
    *,
    compared: Compared | None = None,
    left_out: list[Tensor] | None = None,
    tails: Runs | None = None,
) -> Tensor:
    """The layer's hidden states, with a graph from its attention output on.

    Args:
        layer (nn.Module): the decoder layer
        args, kwargs: its arguments for the positions
        outputs (list of Tensor): outputs of its attention calls at the positions. The
            first replaces its call, as a leaf; further calls, which depend on it, run.
            The list is changed to hold the tensors that gradients are wanted of.
        projections (Mapping, optional): outputs of projections at the positions, which
            are not computed again. Default: None
        compared (list, optional): receives a few features of each of these outputs:
            as the projection of its input in this replay, and as known. Default: None
        left_out (list, optional): receives placeholders for the outputs of projections
            before the attention, which are then not computed: in most layers nothing
            but the attention depends on them. Default: None, they are computed
        tails (Runs, optional): runs of its attention module with the positions, in
            whose place it is not run again. Default: None
    """
    num_calls = 0

    def known_attention(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        assert tails is not None
        outputs[0] = outputs[0].detach().requires_grad_()
        num_calls += 1
        torch.set_grad_enabled(True)
        apply: Any = KnownTail.apply
        return tails[-1][0].like(apply(outputs[0], tails))

    def tap(call: AttentionCall) -> Any:
        nonlocal num_calls
        rest: list[Any] = [None]
        if num_calls == 0:
            outputs[0] = outputs[0].detach().requires_grad_()
            torch.set_grad_enabled(True)
        else:
            outputs[num_calls], *rest = call.run()
        num_calls += 1
        return (outputs[num_calls - 1], *rest)

    def placeholder(module: nn.Linear) -> Projection:
        product = product_of(module)

        def forward(input: Tensor) -> Tensor:
            if left_out is None or num_calls:
                return product(input)
            shape = (*input.shape[:-1], module.out_features)
            left_out.append(input.new_zeros(shape).requires_grad_())
            # A layer may work in place, which a leaf does not allow.
            return left_out[-1].clone()

        return forward

    modules = {module: 0 for module in layer.modules()}
    replaced = guarded_projections(layer, lambda: num_calls > 0)
    if left_out is not None:
        for module in filter(is_plain_linear, modules):
            replaced[module] = placeholder(module)
    for module, output in (projections or {}).items():
        replaced[module] = _known_projection(module, output, compared)
    if tails is not None:
        replaced[tails[-1][0].module] = known_attention
    try:
        with (
            # The graph has to show what depends on a placeholder.
            torch.set_grad_enabled(left_out is not None),
            intercepted_attention(modules, tap),
            replaced_forward(replaced),
        ):
            # Without the layer's hooks, which have been called in its first run.
            output = layer.forward(*args, **kwargs)
            return states_of(layer, args, kwargs, output)
    finally:
        torch.set_grad_enabled(False)


def depends_on(hidden: Tensor, leaves: list[Tensor]) -> bool:
    """Whether a tensor was computed from any of some leaves."""
    sought = {id(leaf) for leaf in leaves}
    return any(
        id(getattr(node, "variable", None)) in sought for node in graph_nodes(hidden)
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is a projection that nobody has changed, as adapters,
    quantisation and offloading do."""
    return has_plain_weight(module) and is_unpatched(module)


def product_of(module: nn.Linear) -> Projection:
    """What a plain projection computes, with the weights that it has at each call:
    offloading exchanges them."""
    linear, parameters = nn.functional.linear, module._parameters

    def forward(input: Tensor) -> Tensor:
        weight: Any = parameters.get("weight")
        if weight is None:
            # An adapter has parametrised it for this call.
            weight = module.weight
        return linear(input, weight, parameters["bias"])

    return forward


class _KnownProjection(torch.autograd.Function):
    """A linear projection whose output is known: only its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, output: list[Tensor]) -> Any:
        ctx.save_for_backward(weight)
        return output[0].detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return gradient @ weight, None, None


def _known_projection(
    module: nn.Linear, output: Tensor, compared: Compared | None
) -> Projection:
    positions = output.shape[:-1]

    def forward(input: Tensor) -> Tensor:
        if input.shape[:-1] != positions:
            # Another of its calls: some adapters also multiply its weight by itself.
            return product_of(module)(input)
        if compared is not None:
            compared.append(_some_features(module, input.detach(), output))
        apply: Any = _KnownProjection.apply
        # In a list, as autograd would take a tensor for another input.
        product: Tensor = apply(input, module.weight, [output])
        return product

    return forward


def _some_features(
    module: nn.Linear, input: Tensor, output: Tensor
) -> tuple[Tensor, Tensor]:
    """A few features of the projection of an input, and of its known output."""
    stride = max(1, module.out_features // CHECKED_FEATURES)
    some = slice(0, CHECKED_FEATURES * stride, stride)
    with torch.no_grad():
        bias = None if module.bias is None else module.bias[some]
        computed = nn.functional.linear(input, module.weight[some], bias)
        return computed, output[..., some]


def at_positions(value: Any, num_queries: int, positions: Tensor) -> Any:
    """The arguments of a layer, of a pass over ``num_queries`` positions, for some.

    The axis of the positions is the first of that length: in every decoder it comes
    before the keys' or a head's. Caches are left out, so that they don't change, and
    mappings copied, as some layers pass their keys to later ones in them.

    Args:
        value (Any): an argument, or a tuple, list or mapping of them
        num_queries (int): positions of the pass
        positions (Tensor): the positions wanted, ``(positions,)``
    """

    def selected(tensor: Tensor) -> Tensor:
        if num_queries not in tensor.shape:
            return tensor
        axis = tensor.shape.index(num_queries)
        return tensor.index_select(axis, positions.to(tensor.device))

    return changed(value, selected, lambda cache: None)


def changed(
    value: Any, tensor: Callable[[Tensor], Any], cache: Callable[[Cache], Any]
) -> Any:
    """Arguments with their tensors and caches changed, in new containers."""
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, Cache):
        return cache(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(changed(item, tensor, cache) for item in value)
    if isinstance(value, Mapping):
        return {name: changed(item, tensor, cache) for name, item in value.items()}
    return value
