"""The referee: plain autograd over eager attention, one growing prefix a token.

It shares nothing with the closed form but the discovery of layers, norm and head. It is
slow and takes memory quadratic in the prompt, and it needs no attention interface: any
model whose attention modules return their probabilities will do.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from captum_dexar.attention_gradients.decoder import Decoder, hidden_of
from captum_dexar.attention_gradients.gradients import Consumer, LayerGradients
from torch import nn, Tensor


class AutogradTwin:
    """Explains one decoding step after the other, each in a pass of its own.

    Args:
        model (nn.Module): the vision-language model
        prefixes (iterable of Mapping): the model's inputs for every step; the last
            position of each predicts the step's target
        target_ids (Tensor): ``(batch, steps)``
        image_keys (Tensor): positions of the image tokens, ``(batch, image keys)``
        attention_power (float, optional): gradients are multiplied by the attention
            probabilities to this power. Default: 0.0
        grad_kwargs (Mapping, optional): further arguments of ``torch.autograd.grad``.
            Default: None
    """

    def __init__(
        self,
        model: nn.Module,
        prefixes: Iterable[Mapping[str, Any]],
        target_ids: Tensor,
        image_keys: Tensor,
        attention_power: float = 0.0,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.prefixes = prefixes
        self.target_ids = target_ids
        self.image_keys = image_keys
        self.attention_power = attention_power
        self.grad_kwargs = {"retain_graph": True, **(grad_kwargs or {})}

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> Tensor:
        """Runs one pass a step; see :class:`AttentionGradients`."""
        steps: list[dict[int, tuple[Tensor, Tensor]]] = []
        step_logits: list[Tensor] = []
        with eager_attention(self.model), torch.enable_grad():
            for step, inputs in enumerate(self.prefixes):
                gradients, logits = self._one_step(decoder, layers, step, inputs)
                steps.append(gradients)
                step_logits.append(logits)
        for index in layers:
            consume(self._layer_gradients(index, [step[index] for step in steps]))
        return torch.stack(step_logits, dim=1)

    def _one_step(
        self, decoder: Decoder, layers: list[int], step: int, inputs: Mapping[str, Any]
    ) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor]:
        """Gradients and allowed keys of each layer, ``(batch, heads, keys)`` both."""
        targets = self.target_ids[:, step : step + 1]
        with _recorded(decoder, layers, self.model) as (attention, hidden_states):
            logits = self.model(**inputs, use_cache=False).logits[:, -1]
            decoder.check(
                hidden_states[len(decoder.layers) - 1].detach(),
                targets,
                logits.detach()[:, None],
            )
            result = {}
            for index in layers:
                if index not in attention:
                    raise RuntimeError(
                        f"Decoder layer {index} returned no attention probabilities "
                        "under eager attention; it can't be explained by autograd."
                    )
                probabilities, mask = attention[index]
                reading = decoder.reading(hidden_states[index], targets).sum()
                (gradient,) = torch.autograd.grad(
                    reading, [probabilities], **self.grad_kwargs
                )
                if self.attention_power:
                    read = probabilities.detach().float().pow(self.attention_power)
                    gradient = gradient * read
                may_read = torch.ones_like(probabilities[:, :, -1], dtype=torch.bool)
                if mask is not None:
                    may_read &= mask[:, :, -1] > torch.finfo(mask.dtype).min / 2
                result[index] = (gradient[:, :, -1].float(), may_read)
        return result, logits.detach()

    def _layer_gradients(
        self, layer: int, steps: list[tuple[Tensor, Tensor]]
    ) -> LayerGradients:
        num_keys = max(gradient.shape[-1] for gradient, _ in steps)

        def stacked(tensors: Iterable[Tensor]) -> Tensor:
            # Keys of later steps do not exist yet for an earlier one: nothing there.
            padded = [
                nn.functional.pad(tensor, (0, num_keys - tensor.shape[-1]))
                for tensor in tensors
            ]
            return torch.stack(padded, dim=1)

        allowed = stacked(may_read for _, may_read in steps)
        gradient = stacked(gradient for gradient, _ in steps) * allowed
        is_image = torch.zeros(
            gradient.shape[0], num_keys, dtype=torch.bool, device=gradient.device
        ).scatter_(1, self.image_keys.to(gradient.device), True)[:, None, None]
        index = self.image_keys.to(gradient.device)[:, None, None]
        return LayerGradients(
            layer=layer,
            image=gradient.gather(3, index.expand(*gradient.shape[:3], -1)),
            text_blocks=[gradient.masked_fill(is_image, 0.0)],
            num_image_keys=(allowed & is_image).sum(-1),
            num_text_keys=(allowed & ~is_image).sum(-1),
        )


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Switches every configuration of ``model`` to eager attention, and back."""
    configs: dict[int, Any] = {
        id(module.config): module.config
        for module in model.modules()
        if hasattr(module, "config") and hasattr(module.config, "_attn_implementation")
    }
    before = {
        key: config._attn_implementation_internal for key, config in configs.items()
    }
    try:
        for config in configs.values():
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]


@contextmanager
def _recorded(
    decoder: Decoder, layers: list[int], model: nn.Module
) -> Iterator[tuple[dict[int, tuple[Tensor, Tensor | None]], dict[int, Tensor]]]:
    """Keeps each layer's attention probabilities, their additive mask, and the layer's
    last position, with their graph."""
    attention: dict[int, tuple[Tensor, Tensor | None]] = {}
    hidden_states: dict[int, Tensor] = {}

    def keep_probabilities(index: int, kwargs: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1:
            candidate = output[1]
            if isinstance(candidate, Tensor) and candidate.dim() == 4:
                attention[index] = (candidate, kwargs.get("attention_mask"))

    def keep_hidden(index: int, output: Any) -> None:
        hidden_states[index] = hidden_of(output)[:, -1:]

    def start_graph(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # A frozen model has no graph unless its first hidden states ask for one.
        return output if output.requires_grad else output.detach().requires_grad_()

    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    handles = [embeddings.register_forward_hook(start_graph)]
    for index in sorted({*layers, len(decoder.layers) - 1}):
        layer = decoder.layers[index]
        handles.append(
            layer.register_forward_hook(
                lambda module, args, output, index=index: keep_hidden(index, output)
            )
        )
        for module in layer.modules():
            if module is not layer and index in layers:
                handles.append(
                    module.register_forward_hook(
                        lambda module, args, kwargs, output, index=index: (
                            keep_probabilities(index, kwargs, output)
                        ),
                        with_kwargs=True,
                    )
                )
    try:
        yield attention, hidden_states
    finally:
        for handle in handles:
            handle.remove()
