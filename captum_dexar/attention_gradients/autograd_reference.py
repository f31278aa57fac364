"""The reference implementation: plain autograd over eager attention.

It runs one pass per token, and shares nothing with the closed form but the discovery of
layers, norm and head. It is slow and takes memory quadratic in the prompt, but needs no
attention interface: any model whose attention modules return their probabilities will
do. Eager attention is on in the explaining thread only.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from captum_dexar.attention_gradients.attention_call import AttentionCall
from captum_dexar.attention_gradients.backward_guard import guarded_projections
from captum_dexar.attention_gradients.eager_attention import eager_attention
from captum_dexar.attention_gradients.gradients import (
    Consumer,
    gradients_of,
    LayerGradients,
)
from captum_dexar.attention_gradients.interception import (
    Forward,
    intercepted_attention,
    replaced_forward,
)
from captum_dexar.attention_gradients.softmax_watch import watched_softmax
from captum_dexar.model.decoder import Decoder
from captum_dexar.model.layers import hidden_argument, modules_of_layers, with_hidden
from captum_dexar.model.logit_lens import contrasted_lenses
from captum_dexar.model.precision import widened
from captum_dexar.model.state import kept_state
from captum_dexar.model.states import states_of
from captum_dexar.model.target_logits import rival_ids, TargetLogits
from captum_dexar.model.thread_hooks import forward_hooks, forward_pre_hooks
from torch import nn, Tensor


@dataclass(frozen=True, eq=False)
class _Call:
    """Probabilities and additive mask of an attention call, ``(batch, heads or 1,
    queries, keys)``."""

    probabilities: Tensor
    mask: Tensor | None
    reads_image: bool


@dataclass(frozen=True, eq=False)
class _Gradient:
    """Gradients and allowed keys of the last query, ``(batch, heads, keys)``."""

    values: Tensor
    may_read: Tensor
    reads_image: bool


@dataclass(eq=False)
class AutogradReference:
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
        cross_attention (str, optional): name of the attention module inside a decoder
            layer that reads the image. Default: None, the self-attention does
        contrast_ids (Tensor, optional): as in :class:`ClosedForm`, without rivals.
            Default: None
        at_softmax (bool, optional): takes the probabilities where the softmax gives
            them, rather than from the outputs of attention modules. Default: False
        encoder_keys (int, optional): see :func:`encoder_first`. Default: 0
        rivals (int, optional): how many of the model's own next choices each token is
            contrasted with, each by itself. Default: 0
    """

    model: nn.Module
    prefixes: Iterable[Mapping[str, Any]]
    target_ids: Tensor
    image_keys: Tensor
    attention_power: float = 0.0
    grad_kwargs: Mapping[str, Any] | None = None
    cross_attention: str | None = None
    contrast_ids: Tensor | None = None
    at_softmax: bool = False
    encoder_keys: int = 0
    rivals: int = 0

    def __call__(
        self, decoder: Decoder, layers: list[int], consume: Consumer
    ) -> TargetLogits:
        """Runs one pass per step; see :class:`AttentionGradients`."""
        guarded: dict[nn.Module, Forward] = {}
        for index in layers:
            guarded |= guarded_projections(decoder.layers[index])
        steps: list[list[dict[int, list[_Gradient]]]] = []
        target_logits: list[TargetLogits] = []
        contrasts: list[Tensor | None] = []
        # A graph is built from the first decoder layer on: see :func:`_recorded`.
        with (
            eager_attention(self.model),
            kept_state(self.model),
            replaced_forward(guarded),
            torch.no_grad(),
        ):
            for step, inputs in enumerate(self.prefixes):
                gradients, of_step, ids = self._one_step(decoder, layers, step, inputs)
                steps.append(gradients)
                target_logits.append(of_step)
                contrasts.append(ids)
        known = [ids for ids in contrasts if ids is not None]
        contrast_ids = torch.cat(known, dim=-1) if known else None
        for index in layers:
            for contrast, of_contrast in enumerate(zip(*steps)):
                if index in of_contrast[0]:
                    of_layer = [step[index] for step in of_contrast]
                    found = self._layer_gradients(index, of_layer, contrast)
                    if contrast_ids is not None:
                        found = replace(found, contrast_ids=contrast_ids[contrast])
                    consume(found)
        return TargetLogits.joined(target_logits)

    def _one_step(
        self, decoder: Decoder, layers: list[int], step: int, inputs: Mapping[str, Any]
    ) -> tuple[list[dict[int, list[_Gradient]]], TargetLogits, Tensor | None]:
        """Gradients of each layer's attention calls, contrast by contrast, the target's
        logits, and what it was contrasted with, ``(contrasts, batch, 1)``."""
        targets = self.target_ids[:, step : step + 1]
        grad_kwargs = {"retain_graph": True, **(self.grad_kwargs or {})}
        contrast = None
        if self.contrast_ids is not None:
            contrast = self.contrast_ids[..., step : step + 1]
        recorded = _recorded(decoder, layers, self.cross_attention, self.at_softmax)
        with recorded as (attention, hidden_states), torch.no_grad():
            logits = self.model(**{**inputs, "use_cache": False}).logits[:, -1]
        with torch.enable_grad():
            target_logits = TargetLogits.of(logits.detach()[:, None], targets)
            if self.rivals:
                contrast = rival_ids(logits.detach()[:, None], targets, self.rivals)
            lenses = contrasted_lenses(decoder, targets, contrast)
            if len(lenses) > 1:
                grad_kwargs["retain_graph"] = True
            last_hidden = hidden_states[len(decoder.layers) - 1].detach()
            lenses[0].check(last_hidden, target_logits)
            if not attention:
                raise RuntimeError(
                    "None of the decoder layers returned attention probabilities under "
                    "eager attention; they can't be explained by autograd."
                )
            results = []
            for lens in lenses:
                result = {}
                for index, calls in attention.items():
                    reading = lens.read(hidden_states[index]).sum()
                    found = [call.probabilities for call in calls]
                    gradients = gradients_of(reading, found, index, **grad_kwargs)
                    result[index] = [
                        self._gradient(call, gradient)
                        for call, gradient in zip(calls, gradients)
                    ]
                results.append(result)
        return results, target_logits, contrast

    def _gradient(self, call: _Call, gradient: Tensor) -> _Gradient:
        if self.attention_power:
            read = widened(call.probabilities.detach()).pow(self.attention_power)
            gradient = gradient * read
        may_read = torch.ones_like(gradient[:, :, -1], dtype=torch.bool)
        if call.mask is not None:
            mask = call.mask[:, :, -1, : gradient.shape[-1]]
            may_read &= mask > torch.finfo(mask.dtype).min / 2
        values = widened(gradient[:, :, -1])
        # The encoder's keys first, where their positions do not change.
        values, may_read = (
            keys.roll(self.encoder_keys, dims=-1) for keys in (values, may_read)
        )
        return _Gradient(values, may_read, call.reads_image)

    def _layer_gradients(
        self, layer: int, steps: list[list[_Gradient]], contrast: int
    ) -> LayerGradients:
        """The heads of all calls side by side, with separate columns for each call's
        keys."""
        calls = list(zip(*steps))
        num_keys = [max(step.values.shape[-1] for step in call) for call in calls]

        def stacked(name: str) -> Tensor:
            heads = []
            for index, call in enumerate(calls):
                before, after = sum(num_keys[:index]), sum(num_keys[index:])
                values = [getattr(step, name) for step in call]
                # Keys of later steps do not exist for an earlier one: zero there.
                padded = [
                    nn.functional.pad(value, (before, after - value.shape[-1]))
                    for value in values
                ]
                heads.append(torch.stack(padded, dim=1))
            return torch.cat(heads, dim=2)

        allowed = stacked("may_read")
        gradient = stacked("values") * allowed
        reading_call = [call.reads_image for call in steps[0]]
        image_keys = self.image_keys.to(gradient.device)
        is_image = torch.zeros_like(allowed[:, 0, 0])
        if any(reading_call):
            image_keys = image_keys + sum(num_keys[: reading_call.index(True)])
            is_image.scatter_(1, image_keys, True)
            index = image_keys[:, None, None].expand(*gradient.shape[:3], -1)
            image = gradient.gather(3, index)
        else:
            image = gradient.new_zeros(*gradient.shape[:3], image_keys.shape[1])
        return LayerGradients(
            layer=layer,
            image=image,
            text_blocks=[gradient.masked_fill(is_image[:, None, None], 0.0)],
            num_image_keys=(allowed & is_image[:, None, None]).sum(-1),
            num_text_keys=(allowed & ~is_image[:, None, None]).sum(-1),
            contrast=contrast,
        )


def _is_of_keys(candidate: Tensor, args: Any, kwargs: Any) -> bool:
    """Whether a module has a query for every position that it is given: other modules
    return weights, too (of residual streams, say)."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    if candidate.dim() != 4 or not isinstance(hidden, Tensor):
        return candidate.dim() == 4
    return candidate.shape[2] == hidden.shape[1]


@contextmanager
def _recorded(
    decoder: Decoder,
    layers: list[int],
    cross_attention: str | None,
    at_softmax: bool = False,
) -> Iterator[tuple[dict[int, list[_Call]], dict[int, Tensor]]]:
    """Keeps each layer's attention calls and its output at the last position, with
    their graph."""
    attention: dict[int, list[_Call]] = {}
    hidden_states: dict[int, Tensor] = {}
    # Probabilities that attention functions return, with the masks they were given.
    # Some modules choose keys, by a mask of their own.
    masked: list[tuple[Tensor, Any]] = []

    def keep_mask(call: AttentionCall) -> Any:
        output = call.run()
        masked.append((output[1], call.attention_mask))
        return output

    def keep_probabilities(
        index: int, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        candidate = output[1] if isinstance(output, tuple) and output[1:] else None
        if isinstance(candidate, Tensor) and _is_of_keys(candidate, args, kwargs):
            reads_image = cross_attention in (None, name)
            of_module = kwargs.get("attention_mask")
            mask = next((mask for made, mask in masked if made is candidate), of_module)
            masked.clear()
            call = _Call(candidate, mask, reads_image)
            attention.setdefault(index, []).append(call)

    def keep_softmax(
        index: int, names: list[str], scores: Tensor, probabilities: Tensor
    ) -> None:
        reads_image = cross_attention is None or cross_attention in names
        call = _Call(probabilities, scores.detach(), reads_image)
        attention.setdefault(index, []).append(call)

    def keep_hidden(
        index: int, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        hidden_states[index] = states_of(module, args, kwargs, output)[:, -1:]

    def start_graph(module: nn.Module, args: Any, kwargs: Any) -> Any:
        # Nothing before the layers depends on their attention.
        torch.set_grad_enabled(True)
        hidden = hidden_argument(args, kwargs).detach().requires_grad_()
        return with_hidden(args, kwargs, hidden)

    hooks: dict[nn.Module, Any] = {}
    outputs: dict[nn.Module, Any] = {}
    layer_of, _ = modules_of_layers(decoder.layers, layers, cross_attention)
    for index in sorted({*layers, len(decoder.layers) - 1}):
        layer = decoder.layers[index]
        outputs[layer] = partial(keep_hidden, index)
        is_hooked = index in layers and not at_softmax
        for name, module in layer.named_modules() if is_hooked else ():
            if module is not layer:
                hooks[module] = partial(keep_probabilities, index, name)
    explained = {index: decoder.layers[index] for index in layers}
    watched = watched_softmax(explained, keep_softmax) if at_softmax else nullcontext()
    with (
        watched,
        forward_pre_hooks({decoder.layers[0]: start_graph}, with_kwargs=True),
        forward_hooks(outputs, with_kwargs=True),
        forward_hooks(hooks, with_kwargs=True),
        intercepted_attention(layer_of, keep_mask),
    ):
        yield attention, hidden_states
