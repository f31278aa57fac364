"""Running a decoder layer again for some rows, on what its first run has computed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from captum_dexar.attention_gradients.graph_nodes import graph_nodes
from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from captum_dexar.attention_gradients.replaced_forward import (
    is_itself,
    replaced_forward,
)
from captum_dexar.model.decoder import hidden_of
from torch import nn, Tensor
from transformers.cache_utils import Cache

Projection = Callable[[Tensor], Tensor]


def run_again(
    layer: Any,
    args: Any,
    kwargs: Mapping[str, Any],
    outputs: list[Tensor],
    products: Mapping[nn.Linear, Tensor] | None = None,
    *,
    front: list[Tensor] | None = None,
) -> Tensor:
    """The layer's hidden states, with a graph from its attention output on.

    Args:
        layer (nn.Module): the decoder layer
        args, kwargs: its arguments for the rows
        outputs (list of Tensor): outputs of its attention calls at the rows. The first
            takes the call's place, as a leaf; further calls, which depend on it, run.
            The list is given the tensors that gradients are wanted of.
        products (Mapping, optional): what some projections gave for the rows, and need
            not compute again. Default: None
        front (list, optional): takes the placeholders of what projections in front of
            the attention would give, which are then not computed: in most layers
            nothing but its output depends on them. Parameters must be frozen.
            Default: None, they are computed
    """
    called = 0

    def known(
        index: int,
        attention_function: AttentionFunction,
        eager_function: AttentionFunction,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        nonlocal called
        rest: list[Any] = [None]
        if called == 0:
            outputs[0] = outputs[0].detach().requires_grad_()
            torch.set_grad_enabled(True)
        else:
            outputs[called], *rest = attention_function(*args, **kwargs)
        called += 1
        return (outputs[called - 1], *rest)

    modules = {module: 0 for module in layer.modules()}
    replaced: dict[nn.Module, Projection] = {}

    def held_place(module: nn.Linear) -> Projection:
        product = product_of(module)

        def forward(input: Tensor) -> Tensor:
            if front is None or called:
                return product(input)
            shape = (*input.shape[:-1], module.out_features)
            front.append(input.new_zeros(shape).requires_grad_())
            # A layer may go on in place, as can't be done with a leaf.
            return front[-1].clone()

        return forward

    if front is not None:
        replaced = {
            module: held_place(module) for module in modules if is_plain_linear(module)
        }
    for module, output in (products or {}).items():
        replaced[module] = _giving(module, output)
    try:
        with (
            # What depends on a placeholder is to be seen.
            torch.set_grad_enabled(front is not None),
            intercepted_attention(modules, known),
            replaced_forward(replaced),
        ):
            # Not its hooks, which have had their call.
            return hidden_of(layer.forward(*args, **kwargs))
    finally:
        torch.set_grad_enabled(False)


def depends_on(hidden: Tensor, leaves: list[Tensor]) -> bool:
    """Whether any of some leaves has a part in a tensor."""
    sought = {id(leaf) for leaf in leaves}
    return any(
        id(getattr(node, "variable", None)) in sought for node in graph_nodes(hidden)
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is a projection that nobody has made something else of, as
    adapters, quantisation and offloading do."""
    return type(module) is nn.Linear and is_itself(module)


def product_of(module: nn.Linear) -> Projection:
    """What a plain projection computes, with the weights that it has at each call:
    offloading puts others in their place."""
    linear, parameters = nn.functional.linear, module._parameters

    def forward(input: Tensor) -> Tensor:
        weight: Any = parameters["weight"]
        return linear(input, weight, parameters["bias"])

    return forward


class _KnownProduct(torch.autograd.Function):
    """A linear projection whose output is known: only its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, output: list[Tensor]) -> Any:
        ctx.save_for_backward(weight)
        return output[0].detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return gradient @ weight, None, None


def _giving(module: nn.Linear, output: Tensor) -> Projection:
    """A projection that gives what is known."""

    def forward(input: Tensor) -> Tensor:
        apply: Any = _KnownProduct.apply
        # In a list: autograd would take a tensor for another input.
        product: Tensor = apply(input, module.weight, [output])
        return product

    return forward


def is_close(one: Tensor, other: Tensor) -> bool:
    """Whether hidden states are the same up to rounding."""
    if one.shape != other.shape:
        return False
    tolerance = float(torch.finfo(other.dtype).eps ** 0.5)
    wide = other.float()
    error = (one.float() - wide).abs_().max()
    return bool(error <= tolerance * wide.abs().max().clamp(min=1e-30))


def of_rows(value: Any, num_queries: int, rows: Tensor) -> Any:
    """The arguments of a layer, of a pass over ``num_queries`` positions, for some.

    The axis of the positions is the first of that length: in every decoder it stands
    before the keys' or a head's. Caches are left out, so that they stay as they are,
    and mappings copied, as some layers hand their keys to later ones in them.

    Args:
        value (Any): an argument, or a tuple, list or mapping of them
        num_queries (int): positions of the pass
        rows (Tensor): the positions wanted, ``(rows,)``
    """

    def taken(tensor: Tensor) -> Tensor:
        if num_queries not in tensor.shape:
            return tensor
        axis = tensor.shape.index(num_queries)
        return tensor.index_select(axis, rows.to(tensor.device))

    return changed(value, taken, lambda cache: None)


def without_cache(value: Any) -> Any:
    """The arguments of a layer for running it again over all positions."""
    return changed(value, lambda tensor: tensor, lambda cache: None)


def changed(
    value: Any, tensor: Callable[[Tensor], Any], cache: Callable[[Cache], Any]
) -> Any:
    """Arguments with their tensors and caches changed, in containers of their own."""
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, Cache):
        return cache(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(changed(item, tensor, cache) for item in value)
    if isinstance(value, Mapping):
        return {name: changed(item, tensor, cache) for name, item in value.items()}
    return value
