"""Attributions of queries, spread over the patches that they have read."""

from dataclasses import replace
from typing import Any

import torch
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.interception import intercepted_attention
from captum_dexar.attention_gradients.softmax_watch import watched_softmax
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.families.shared.queries import QueryAdapter
from captum_dexar.inputs import Prompt
from captum_dexar.model.state import kept_state
from captum_dexar.model.thread_hooks import forward_hooks
from torch import nn, Tensor


def spread_over_patches(
    explained: StepAttributions, prompt: Prompt
) -> StepAttributions:
    """The attributions of image tokens as those of the patches that they have read.

    Sums over the image stay what they are.

    Args:
        explained (StepAttributions): of all image tokens, which are queries
        prompt (Prompt): the single prompt, whose layout is that of the patches
    """
    shares = prompt.shares
    if shares is None:
        shares = prompt.shares = shares_of_patches(prompt)

    def spread(values: Tensor) -> Tensor:
        return (values.double() @ shares.to(values.device)).to(values.dtype)

    layers = explained.layer_attr
    return replace(
        explained,
        token_attr=spread(explained.token_attr),
        layer_attr=None if layers is None else spread(layers),
        layout=prompt.layout,
    )


def shares_of_patches(prompt: Prompt) -> Tensor:
    """What part of each image token belongs to each token of the vision tower.

    Returns:
        *Tensor* ``(image tokens, vision tokens)``, float64; rows sum to 1
    """
    adapter: Any = prompt.adapter
    assert isinstance(adapter, QueryAdapter)
    model: Any = prompt.model
    attentions = adapter.attentions(model)
    keys_of = {one.module: one.keys for one in attentions}
    read: list[tuple[str, Tensor]] = []

    def keep(module: nn.Module, probabilities: Tensor) -> None:
        read.append((keys_of[module], probabilities.double()))

    def tap(call: AttentionCall) -> Any:
        every = torch.arange(call.query.shape[2])
        keep(call.module, call.probabilities(every).mean(1))
        return call.run()

    def keep_returned(module: nn.Module, args: Any, output: Any) -> None:
        keep(module, output[1])

    def keep_softmax(
        index: int, names: list[str], scores: Tensor, probabilities: Tensor
    ) -> None:
        keep(attentions[index].module, probabilities.mean(1))

    by_hand = {
        index: one.module for index, one in enumerate(attentions) if one.at_softmax
    }
    # torch's own module calls no interface, but returns the mean of its heads.
    own: dict[nn.Module, Any] = {
        module: keep_returned
        for module in keys_of
        if isinstance(module, nn.MultiheadAttention)
    }
    with (
        torch.no_grad(),
        kept_state(model),
        intercepted_attention(dict.fromkeys(keys_of, 0), tap),
        forward_hooks(own),
        watched_softmax(by_hand, keep_softmax),
    ):
        adapter.encode(model, prompt.inputs)
    expected_calls = len(attentions) * adapter.num_runs(prompt.inputs)
    if len(read) != expected_calls:
        raise RuntimeError(
            f"{type(model).__name__} calls {len(read)} attentions of {adapter.reader}, "
            f"and {expected_calls} were expected: their way to the patches is not "
            "known. Pass grid= or boxes=, or leave the model as transformers made it."
        )
    shares = adapter.shares(read, prompt.inputs, prompt.config)
    expected = prompt.image_keys.shape[1], prompt.layout.num_tokens
    assert shares.shape == expected, (shares.shape, expected)
    return shares
