"""What explaining can't be cheaper than: a forward pass and the local backwards.

The model runs the explained positions on its cache; each layer's attention output is
made a leaf, its reading differentiated, and nothing is done with the gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.attention_gradients import AttentionCall, intercepted_attention
from tests.benchmarks.models import IMAGE_TOKEN, predicting, prefilled
from tests.benchmarks.token_maps import token_maps
from torch import Tensor
from transformers import DynamicCache

NO_LOGITS = torch.empty(0, dtype=torch.long)


def bare_passes(
    model: Any,
    fed: Tensor,
    target_ids: Tensor,
    cache: DynamicCache,
    *,
    with_logits: bool = False,
    on_gradient: Callable[[Tensor], object] | None = None,
) -> None:
    """One forward pass, and the backward pass of each layer's own graph.

    Args:
        model: the LLaVA
        fed (Tensor): tokens at the explained positions, ``(batch, num_tokens)``
        target_ids (Tensor): what they predict, ``(batch, num_tokens)``
        cache (DynamicCache): what is before them; grows
        with_logits (bool, optional): the head is applied to the whole vocabulary, as
            where the next token is decoded. Default: False
        on_gradient (Callable, optional): is shown the gradient of each layer's
            attention output, ``(batch, num_tokens, heads, head size)``. Default: None
    """
    text = model.model.language_model
    target_rows = model.lm_head.weight[target_ids].detach()
    leaf: list[Tensor] = []

    def tap(call: AttentionCall) -> Any:
        output, *rest = call.run()
        leaf[:] = [output.detach().requires_grad_()]
        torch.set_grad_enabled(True)
        return leaf[0], *rest

    def end_layer(module: Any, args: Any, hidden: Tensor) -> Tensor:
        reading = (text.norm(hidden) * target_rows).sum()
        (gradient,) = torch.autograd.grad(reading, leaf)
        torch.set_grad_enabled(False)
        if on_gradient is not None:
            on_gradient(gradient)
        return hidden.detach()

    layer_of = {layer.self_attn: index for index, layer in enumerate(text.layers)}
    handles = [layer.register_forward_hook(end_layer) for layer in text.layers]
    try:
        with torch.no_grad(), intercepted_attention(layer_of, tap):
            model(
                input_ids=fed,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if with_logits else NO_LOGITS,
            )
    finally:
        for handle in handles:
            handle.remove()


def bare_streaming(model: Any, inputs: dict[str, Tensor], ids: Tensor) -> None:
    """Decoding with a local backward at each step, the prompt included."""
    cache = prefilled(model, inputs)
    fed = predicting(inputs, ids)
    for step in range(ids.shape[1]):
        here = slice(step, step + 1)
        bare_passes(model, fed[:, here], ids[:, here], cache, with_logits=True)


def maps_of_floor(
    model: Any, inputs: dict[str, Tensor], ids: Tensor, cache: DynamicCache
) -> Tensor:
    """The token maps that the floor's gradients hold, to check that it is one."""
    gradients: list[Tensor] = []
    bare_passes(
        model, predicting(inputs, ids), ids, cache, on_gradient=gradients.append
    )
    num_keys = cache.get_seq_length()
    first = inputs["input_ids"].shape[1] - 1
    query = torch.arange(first, first + ids.shape[1])[:, None]
    allowed = torch.arange(num_keys) <= query
    layers = []
    for layer, gradient in zip(cache.layers, gradients):
        values = layer.values.repeat_interleave(
            gradient.shape[2] // layer.values.shape[1], dim=1
        )
        layers.append(torch.einsum("nthd,nhkd->nthk", gradient, values)[0])
    is_image = torch.zeros(num_keys, dtype=torch.bool)
    is_image[: first + 1] = inputs["input_ids"][0] == IMAGE_TOKEN
    return token_maps(torch.stack(layers, dim=1) * allowed[:, None, None], is_image)
