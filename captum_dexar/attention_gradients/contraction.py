"""From a layer's local graph to the gradients of its attention probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.call_checks import (
    check_cross_keys,
    check_keys,
    check_probabilities,
)
from captum_dexar.attention_gradients.gradients import (
    Consumer,
    gradients_of,
    LayerGradients,
)
from captum_dexar.attention_gradients.key_blocks import (
    key_blocks,
    KeyBlock,
    KeyBlocks,
    TEXT_BLOCK,
)
from captum_dexar.attention_gradients.local_graphs import LocalGraph
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.precision import widened
from torch import nn, Tensor

# Gradients of so many heads, steps and keys are held at once.
GRADIENTS_AT_ONCE = 2**23


@dataclass(eq=False)
class Contraction:
    """Differentiates a layer's reading and contracts the gradient with its values.

    Args:
        lenses (sequence of LogitLens): the readings of the explained tokens, one for
            each contrast
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        reads_by_cross_attention (bool): whether they are keys of a cross-attention
        attention_power (float): gradients are multiplied by the attention probabilities
            to this power
        grad_kwargs (Mapping or None): further arguments of ``torch.autograd.grad``
        first_step (int): number of the first explained step in its answer
    """

    lenses: Sequence[LogitLens]
    image_keys: Tensor
    reads_by_cross_attention: bool
    attention_power: float
    grad_kwargs: Mapping[str, Any] | None
    first_step: int
    # With the masks, whose ids are part of the keys as long as they are alive.
    _blocks: dict[tuple[Any, ...], tuple[Any, KeyBlocks]] = field(
        default_factory=dict, init=False
    )

    def __call__(self, graph: LocalGraph, num_keys: int, consume: Consumer) -> None:
        """Passes on the gradients of one layer, some of the steps at a time, and of
        these those of one contrast after the other.

        Args:
            graph (LocalGraph): the layer's graph
            num_keys (int): keys of a self-attention, including those not held
            consume (Callable): takes the gradients
        """
        *others, last = self.lenses
        # One graph serves all readings.
        of_contrasts = [self._gradients(graph, lens, is_last=False) for lens in others]
        of_contrasts.append(self._gradients(graph, last, is_last=True))
        num_steps = graph.hidden.shape[1]
        batch, _, heads, _ = of_contrasts[0][0].shape
        per_step = batch * heads * max(self.image_keys.shape[1], TEXT_BLOCK)
        at_once = max(1, GRADIENTS_AT_ONCE // per_step)
        with torch.no_grad():
            for start in range(0, num_steps, at_once):
                part = slice(start, min(start + at_once, num_steps))
                for gradients in self._part(graph, of_contrasts, num_keys, part):
                    consume(gradients)

    def _gradients(
        self, graph: LocalGraph, lens: LogitLens, *, is_last: bool
    ) -> tuple[Tensor, ...]:
        """Those of one reading with respect to what each attention call gave."""
        scale = lens.scale if graph.hidden.dtype == torch.float16 else 1.0
        with torch.enable_grad():
            reading = lens.read(graph.hidden, graph.steps).sum()
            if scale != 1.0:
                reading = reading * scale
        grad_kwargs = dict(self.grad_kwargs or {})
        if graph.is_shared or not is_last:
            grad_kwargs["retain_graph"] = True
        gradients = gradients_of(reading, graph.outputs, graph.layer, **grad_kwargs)
        if graph.output_positions is not None:
            gradients = tuple(
                gradient[:, graph.output_positions.to(gradient.device)]
                for gradient in gradients
            )
        if scale != 1.0:
            gradients = tuple(widened(gradient) / scale for gradient in gradients)
        return gradients

    def _part(
        self,
        graph: LocalGraph,
        of_contrasts: list[tuple[Tensor, ...]],
        num_keys: int,
        part: slice,
    ) -> Iterator[LayerGradients]:
        """The gradients of some of a graph's steps, contrast by contrast."""
        start, stop = (graph.steps.start + end for end in (part.start, part.stop))
        steps = slice(self.first_step + start, self.first_step + stop)
        positions = torch.arange(start, stop)
        if graph.query_positions is not None:
            positions = graph.query_positions[start:stop]
        factors = []
        for call, output in zip(graph.calls, graph.outputs):
            attention = None
            if self.attention_power or call.is_users_function:
                if call.query.shape[2] == 0:
                    raise Inconsistent(
                        "Queries of a user's own attention function were not recorded."
                    )
                attention = call.probabilities(positions)
                if graph.output_positions is not None:
                    output = output[:, graph.output_positions.to(output.device)]
                check_probabilities(call, attention, output[:, part])
                power = self.attention_power
                attention = attention.pow(power) if power else None
            factors.append(attention)
        for contrast, gradients in enumerate(of_contrasts):
            contracted = [
                contract(
                    graph.layer,
                    widened(gradient[:, part]),
                    call.value,
                    self._key_blocks(graph, call, num_keys, positions, start),
                    attention,
                    steps,
                    contrast,
                )
                for call, gradient, attention in zip(graph.calls, gradients, factors)
            ]
            ids = self.lenses[contrast].contrast_ids
            yield replace(
                joined_heads(contracted, self.image_keys.shape[1]),
                contrast_ids=None if ids is None else ids[:, start:stop],
            )

    def _key_blocks(
        self,
        graph: LocalGraph,
        call: AttentionCall,
        num_keys: int,
        positions: Tensor,
        start: int,
    ) -> KeyBlocks:
        """Computed once for all layers that mask alike."""
        num_steps = len(positions)
        key = (*call.mask_key(), call.window, num_keys, start, num_steps)
        if key not in self._blocks:
            held_keys = call.value.shape[2]
            reads_image = call.is_cross or not self.reads_by_cross_attention
            allowed = call.allowed_keys(positions)
            if call.is_cross:
                check_cross_keys(call, self.image_keys)
            else:
                num_queries = graph.hidden.shape[1]
                if graph.query_positions is not None:
                    num_queries = call.query.shape[2]
                causal = allowed
                if call.layer_mask is not None:
                    causal = call.causal_keys(positions)
                own_keys = positions - num_queries
                check_keys(call, num_keys, own_keys, allowed, causal)
            # The image is in the prompt, or in the encoder.
            holds_image = call.is_cross or call.keeps_prompt or call.encoder_keys
            blocks = key_blocks(
                self.image_keys if reads_image else None,
                held_keys if holds_image else num_keys,
                held_keys,
                allowed,
                num_steps,
                call.value.device,
            )
            if call.layer_mask is not None:
                # No other layer has this mask, which is better not kept.
                return blocks
            self._blocks[key] = call.attention_mask, blocks
        return self._blocks[key][1]


def contract(
    layer: int,
    output_gradient: Tensor,
    value: Tensor,
    keys: KeyBlocks,
    attention: Tensor | None,
    steps: slice,
    contrast: int = 0,
) -> LayerGradients:
    """The inner products of values and output gradients, image and text keys apart.

    Values are read in place and widened block by block, so that no copy of a whole
    cache is made.

    Args:
        layer (int): index of the layer
        output_gradient (Tensor): ``(batch, steps, heads, head size)``, float32
        value (Tensor): ``(batch, value heads, keys, head size)``
        keys (KeyBlocks): its image and text keys
        attention (Tensor or None): factors of the gradients, ``(batch, heads, steps,
            keys)``
        steps (slice): which steps of the answer these are
        contrast (int, optional): which contrast was subtracted. Default: 0

    Returns:
        LayerGradients
    """
    batch, num_steps, heads, size = output_gradient.shape
    value_heads = value.shape[1]
    # Heads that share a value are adjacent: (batch, value heads, heads of a group x
    # steps, head size).
    by_head = output_gradient.transpose(1, 2)
    grouped = by_head.reshape(batch, value_heads, -1, size)

    def gradient_of(block: KeyBlock) -> Tensor:
        values = widened(block.of(value, 2))
        product = grouped @ values.transpose(2, 3)
        gradient = product.view(batch, heads, num_steps, -1)
        if attention is not None:
            gradient.mul_(block.of(attention, 3))
        if block.masked is not None:
            gradient.masked_fill_(block.masked, 0.0)
        return gradient.transpose(1, 2)

    if keys.image is None:
        image = output_gradient.new_zeros(batch, num_steps, heads, 0)
    else:
        image = gradient_of(keys.image)
    return LayerGradients(
        layer=layer,
        image=image,
        text_blocks=(gradient_of(block) for block in keys.text),
        num_image_keys=keys.num_image_keys,
        num_text_keys=keys.num_text_keys,
        steps=steps,
        contrast=contrast,
    )


def joined_heads(calls: list[LayerGradients], num_image_keys: int) -> LayerGradients:
    """The heads of all attention calls of a layer as heads of that layer.

    A self-attention head beside a cross-attention has no image keys: their gradients
    are zero, as are those of another call's text keys.

    Args:
        calls (list of LayerGradients): in the order of the calls
        num_image_keys (int): image tokens of the prompt
    """
    if len(calls) == 1 and calls[0].image.shape[-1] == num_image_keys:
        return calls[0]
    heads = [call.image.shape[2] for call in calls]

    def of_all_heads(tensor: Tensor, call: int) -> Tensor:
        # Not ``pad``, which torch 2.6 refuses where there are no keys.
        before, after = sum(heads[:call]), sum(heads[call + 1 :])
        batch, rows, _, num_keys = tensor.shape
        return torch.cat(
            [
                tensor.new_zeros(batch, rows, before, num_keys),
                tensor,
                tensor.new_zeros(batch, rows, after, num_keys),
            ],
            dim=2,
        )

    def text_blocks() -> Iterator[Tensor]:
        for index, call in enumerate(calls):
            for block in call.text_blocks:
                yield of_all_heads(block, index)

    def counts(name: str) -> Tensor:
        counted = [getattr(call, name) for call in calls]
        batch = max(count.shape[0] for count in counted)
        return torch.cat(
            [count.expand(batch, -1, n) for count, n in zip(counted, heads)], dim=2
        )

    images = [
        nn.functional.pad(call.image, (0, num_image_keys - call.image.shape[-1]))
        for call in calls
    ]
    return LayerGradients(
        layer=calls[0].layer,
        image=torch.cat(images, dim=2),
        text_blocks=text_blocks(),
        num_image_keys=counts("num_image_keys"),
        num_text_keys=counts("num_text_keys"),
        steps=calls[0].steps,
        contrast=calls[0].contrast,
    )
