"""Equations (3) to (6) by differentiating at every softmax of a decoder layer.

For models whose attention modules choose keys themselves: whatever a module is given
and returns, its probabilities are what its softmax makes, and a key that may not be
read has a score that no key has by itself. As in :mod:`tests.helpers.independent`,
nothing of ``captum_dexar`` is imported, and every token has a pass of its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, ExitStack
from typing import Any

import torch
from tests.helpers.independent import (
    decoder_layers,
    grown_inputs,
    largest,
    Reference,
    SOFTMAXES,
)
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

# Scores of keys that may not be read are the lowest number of some precision.
FORBIDDEN = -1e30

# Probabilities of an attention call, (1, heads, queries, keys), and its scores.
Call = tuple[Tensor, Tensor]


def by_softmax(
    reference: nn.Module,
    inputs: Mapping[str, Any],
    answer: Tensor,
    on_own_cache: bool = False,
) -> Reference:
    """Explains every token of an answer to one prompt.

    Args:
        reference (nn.Module): what :func:`~tests.helpers.independent.exact` makes of
            the model
        inputs (Mapping): the prompt, as the processor makes it, without padding
        answer (Tensor): the answer's ids, ``(steps,)``
        on_own_cache (bool, optional): whether a step's pass is the one that generates
            the token, on the cache that the model keeps, rather than a pass over the
            whole prefix. Only for plain positions. Default: False

    Returns:
        Reference: layers with fewer heads than others have weights of zero after them
    """
    prompt_ids = inputs["input_ids"][0]
    is_image = prompt_ids == reference.config.image_token_id
    cache: Any = None
    steps = []
    for step, token in enumerate(answer.tolist()):
        given = grown_inputs(reference, inputs, answer[:step])
        if cache is not None:
            given = {
                "input_ids": answer[None, step - 1 : step],
                "attention_mask": given["attention_mask"],
                "past_key_values": cache,
            }
        with torch.enable_grad(), _every_layer_read(reference) as calls:
            output = reference(**given, use_cache=on_own_cache)
        if on_own_cache:
            cache = output.past_key_values
        steps.append(_explained(output.logits[:, -1], calls, token, is_image))
    return Reference(*(torch.stack(values) for values in zip(*steps)))


def _explained(
    logits: Tensor, calls: list[list[Call]], token: int, is_image: Tensor
) -> tuple[Tensor, ...]:
    """The fields of :class:`Reference` for one token."""
    maps, weights, best_image, best_text = [], [], [], []
    for layer, of_layer in enumerate(calls):
        if not of_layer:
            continue
        ((probabilities, scores),) = of_layer
        (gradient,) = torch.autograd.grad(
            logits[layer, token], probabilities, retain_graph=True
        )
        # (4), of the keys that the last query may read.
        may_read = scores[0, :, -1] > FORBIDDEN
        last = gradient[0, :, -1].where(may_read, 0.0)
        # The prompt comes first, whichever keys of the answer are still held.
        of_image = torch.zeros(last.shape[-1], dtype=torch.bool)
        of_image[: len(is_image)] = is_image
        image, text = last[:, of_image], last[:, ~of_image]
        image_scores, text_scores = largest(image), largest(text)
        # (5)
        of_head = (image_scores - text_scores).relu()
        maps.append((of_head[:, None] * image.relu()).sum(0))
        weights.append(of_head)
        best_image.append(image_scores.max())
        best_text.append(text_scores.max())
    # (6)
    weight = (torch.stack(best_image).max() - torch.stack(best_text).max()).relu()
    heads = max(map(len, weights))
    padded = [
        nn.functional.pad(of_head, (0, heads - len(of_head))) for of_head in weights
    ]
    layer_maps = torch.stack(maps)
    return (
        layer_maps.sum(0),
        weight,
        torch.stack(padded),
        layer_maps,
        logits[-1].log_softmax(-1)[token].detach(),
    )


class _RecordedSoftmax(TorchFunctionMode):
    """Keeps the 4-d softmaxes of the layer that runs."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layer: int | None = None
        self.calls: list[list[Call]] = [[] for _ in range(num_layers)]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in SOFTMAXES or self.layer is None or args[0].dim() != 4:
            return func(*args, **(kwargs or {}))
        # In the scores' own precision, where eager attention asks for float32.
        probabilities = args[0].softmax(-1)
        self.calls[self.layer].append((probabilities, args[0].detach()))
        return probabilities


@contextmanager
def _every_layer_read(model: nn.Module) -> Iterator[list[list[Call]]]:
    """Collects each layer's softmaxes, and reads all layers with the model's own tail:
    its logits are then ``(layers, positions, vocabulary)``."""
    layers = decoder_layers(model)
    recorded = _RecordedSoftmax(len(layers))
    outputs: list[Tensor] = []

    def begin(index: int) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            recorded.layer = index

        return hook

    def end(module: nn.Module, args: Any, output: Any) -> Any:
        recorded.layer = None
        outputs.append(output[0] if isinstance(output, tuple) else output)
        if len(outputs) < len(layers):
            return None
        every = torch.cat(outputs)
        return (every, *output[1:]) if isinstance(output, tuple) else every

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.enter_context(layer.register_forward_pre_hook(begin(index)))
            stack.enter_context(layer.register_forward_hook(end))
        stack.enter_context(recorded)
        yield recorded.calls
