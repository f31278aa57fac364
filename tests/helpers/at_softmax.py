"""Equations (3) to (6) by autograd at every softmax, independent of the package.

For models whose attention modules return no probabilities. As in
:mod:`tests.helpers.independent` each step is a pass of its own in float64, and the
model's own end reads the outputs of all layers, side by side.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, Tensor

# Which keys of an attention call are the image's, from the number of its keys; None for
# a call that reads no image.
ImageKeys = Callable[[int], Tensor] | None


def exact(model: nn.Module) -> nn.Module:
    """A copy in float64, with eager attention where that is a choice."""
    copied: Any = copy.deepcopy(model).double()
    copied.set_attn_implementation("eager")
    reference: nn.Module = copied
    return reference


def at_softmax(
    model: nn.Module,
    layers: Sequence[nn.Module],
    prefixes: Sequence[Mapping[str, Any]],
    answer: Tensor,
    image_keys: Sequence[ImageKeys],
) -> tuple[Tensor, Tensor, Tensor]:
    """Explains every token of an answer.

    Args:
        model: what :func:`exact` makes
        layers: its decoder layers
        prefixes: the model's inputs for each step
        answer: ids, ``(steps,)``
        image_keys: of each attention call of a layer, in order

    Returns:
        Un-normalised maps ``(steps, image tokens)``, tokens' weights ``(steps,)`` and
        heads' weights ``(steps, layers, heads)``
    """
    steps = [
        _one_step(model, layers, prefix, int(token), image_keys)
        for prefix, token in zip(prefixes, answer)
    ]
    maps, weights, heads = zip(*steps)
    return torch.stack(maps), torch.stack(weights), torch.stack(heads)


def _one_step(
    model: Any,
    layers: Sequence[nn.Module],
    prefix: Mapping[str, Any],
    token: int,
    image_keys: Sequence[ImageKeys],
) -> tuple[Tensor, Tensor, Tensor]:
    given = {
        name: value.double() if torch.is_floating_point(value) else value
        for name, value in prefix.items()
    }
    with torch.enable_grad(), _recorded(layers) as attention:
        logits = model(**given, use_cache=False).logits[:, -1]
    maps, heads, best_image, best_text = [], [], [], []
    for index, calls in enumerate(attention):
        assert len(calls) == len(image_keys)
        gradients = torch.autograd.grad(logits[index, token], calls, retain_graph=True)
        images, texts = [], []
        count = 0
        for call, gradient, keys in zip(calls, gradients, image_keys):
            num_heads = call.shape[0] * call.shape[1] if call.dim() == 4 else len(call)
            rows = (num_heads, *call.shape[-2:])
            last = gradient.reshape(rows)[:, -1]
            last = last.where(call.detach().reshape(rows)[:, -1] > 0, 0.0)
            is_image = torch.zeros(last.shape[1], dtype=torch.bool)
            if keys is not None:
                is_image[keys(last.shape[1])] = True
                count = int(is_image.sum())
            images.append(last[:, is_image])
            texts.append(last.masked_fill(is_image, 0.0))
        image = torch.cat(
            [
                each if each.shape[1] else each.new_zeros(len(each), count)
                for each in images
            ]
        )
        longest = max(text.shape[1] for text in texts)
        text = torch.cat(
            [nn.functional.pad(each, (0, longest - each.shape[1])) for each in texts]
        )
        image_scores, text_scores = image.relu().amax(1), text.relu().amax(1)
        of_head = (image_scores - text_scores).relu()
        maps.append((of_head[:, None] * image.relu()).sum(0))
        heads.append(of_head)
        best_image.append(image_scores.max())
        best_text.append(text_scores.max())
    weight = (torch.stack(best_image).max() - torch.stack(best_text).max()).relu()
    return torch.stack(maps).sum(0), weight, torch.stack(heads)


@contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Probabilities of each layer's attention calls; the last layer's output is that of
    all layers, one after the other in the batch."""
    attention: list[list[Tensor]] = [[] for _ in layers]
    outputs: list[Tensor] = []
    running: list[int] = []
    plain = nn.functional.softmax

    def softmax(*args: Any, **kwargs: Any) -> Tensor:
        made: Tensor = plain(*args, **kwargs)
        if running:
            made.requires_grad_()
            attention[running[-1]].append(made)
        return made

    def enter(index: int) -> Any:
        return lambda module, args: running.append(index)

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        running.pop()
        outputs.append(output[0] if isinstance(output, tuple) else output)
        if len(outputs) < len(layers):
            return None
        every = torch.cat(outputs)
        return (every, *output[1:]) if isinstance(output, tuple) else every

    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(enter(index)))
        handles.append(layer.register_forward_hook(leave))
    nn.functional.softmax = softmax
    try:
        yield attention
    finally:
        nn.functional.softmax = plain
        for handle in handles:
            handle.remove()
