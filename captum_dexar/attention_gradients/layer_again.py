"""Running a decoder layer again for some rows, on what its first run has computed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.attention_gradients.decoder import hidden_of
from captum_dexar.attention_gradients.interception import (
    AttentionFunction,
    intercepted_attention,
)
from torch import nn, Tensor
from transformers.cache_utils import Cache


def run_again(
    layer: Any,
    args: Any,
    kwargs: Mapping[str, Any],
    outputs: list[Tensor],
    products: Mapping[nn.Linear, Tensor] | None = None,
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
    try:
        with (
            torch.no_grad(),
            intercepted_attention(modules, known),
            known_products(products or {}),
        ):
            # The layer's own hooks have had their call.
            return hidden_of(layer.forward(*args, **kwargs))
    finally:
        torch.set_grad_enabled(False)


class _KnownProduct(torch.autograd.Function):
    """A linear projection whose output is known: only its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        # A copy: a layer may go on in place.
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return gradient @ weight, None, None


@contextmanager
def known_products(products: Mapping[nn.Linear, Tensor]) -> Iterator[None]:
    """Within it these projections give what is known."""

    def giving(module: nn.Linear, output: Tensor) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            apply: Any = _KnownProduct.apply
            product: Tensor = apply(input, module.weight, output)
            return product

        return forward

    try:
        for module, output in products.items():
            # In the instance, and not by assignment, which modules watch.
            vars(module)["forward"] = giving(module, output)
        yield
    finally:
        for module in products:
            vars(module).pop("forward", None)


def is_close(one: Tensor, other: Tensor) -> bool:
    """Whether hidden states are the same up to rounding."""
    if one.shape != other.shape:
        return False
    tolerance = float(torch.finfo(other.dtype).eps ** 0.5)
    error = (one.float() - other.float()).abs().max()
    return bool(error <= tolerance * other.float().abs().max().clamp(min=1e-30))


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
