"""The best that is done with public means: eager attention, replayed on a cache.

The model hands out its attention probabilities and hidden states. Every answer token
is one forward pass of one position on the cached prompt, and every layer one backward
pass, from its own logit-lens reading to its own probabilities. Nothing of the closed
form is used, only the scoring of the gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tests.benchmarks.models import IMAGE_TOKEN, predicting, prefilled
from tests.benchmarks.token_maps import token_maps
from torch import nn, Tensor
from transformers import DynamicCache

NO_LOGITS = torch.empty(0, dtype=torch.long)


def replayed(model: Any, inputs: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Token maps of one answer, the prompt included, ``(num_tokens, image tokens)``."""
    with eager_attention(model):
        return replayed_on(model, inputs, ids, prefilled(model, inputs))


def replayed_on(
    model: Any, inputs: dict[str, Tensor], ids: Tensor, cache: DynamicCache
) -> Tensor:
    """The same on the cache of the prompt but its last token."""
    with eager_attention(model), frozen(model), torch.enable_grad():
        fed = predicting(inputs, ids)
        steps = [
            _step_gradients(model, fed[:, step : step + 1], ids[:, step], cache)
            for step in range(ids.shape[1])
        ]
    num_keys = steps[-1].shape[-1]
    gradients = [nn.functional.pad(g, (0, num_keys - g.shape[-1])) for g in steps]
    is_image = torch.zeros(num_keys, dtype=torch.bool)
    is_image[: inputs["input_ids"].shape[1]] = inputs["input_ids"][0] == IMAGE_TOKEN
    return token_maps(torch.stack(gradients), is_image)


def _step_gradients(
    model: Any, fed: Tensor, target: Tensor, cache: DynamicCache
) -> Tensor:
    """One forward pass and a backward pass a layer, ``(layers, heads, keys)``."""
    # With frozen weights, the graph starts at the embedding of the one position.
    embedding = model.get_input_embeddings()(fed).requires_grad_()
    output = model(
        inputs_embeds=embedding,
        past_key_values=cache,
        use_cache=True,
        output_attentions=True,
        output_hidden_states=True,
        logits_to_keep=NO_LOGITS,
    )
    final_norm = model.model.language_model.norm
    target_row = model.lm_head.weight[target]
    *inner, last = output.hidden_states[1:]
    # The last of the hidden states has passed the final norm already.
    normed = [*(final_norm(hidden) for hidden in inner), last]
    gradients = [
        torch.autograd.grad((hidden[:, -1] * target_row).sum(), attention)[0][0, :, -1]
        for hidden, attention in zip(normed, output.attentions)
    ]
    _detach(cache)
    return torch.stack(gradients)


def _detach(cache: DynamicCache) -> None:
    """Ends the graph of a step; the next one would keep it alive."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.detach(), layer.values.detach()


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """The model's attention made of plain operations, which return probabilities."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keeps the weights out of the graph."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
