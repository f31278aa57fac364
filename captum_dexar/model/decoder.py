"""Finding a model's decoder layers, final norm and output head.

The logit lens of equation (3) reads a layer's output through the model's own final norm
and output head. They are derived from the model, never from its name or configuration,
and must reproduce the model's own logits.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.model.layers import find_layers, hidden_of, output_head
from captum_dexar.model.precision import logit_tolerance, widened
from captum_dexar.model.probe_inputs import probe_inputs
from captum_dexar.model.state import device_of, input_embeddings, kept_state
from captum_dexar.model.target_logits import is_forbidden
from captum_dexar.model.thread_hooks import forward_hooks, forward_pre_hooks
from torch import nn, Tensor

LogitTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Decoder:
    """What the logit lens needs to know of a language model.

    Attributes:
        layers (list of nn.Module): the decoder layers, in order
        final_norm (nn.Module or None): the norm between the last layer and the head
        head (nn.Module): the output head, hidden size to vocabulary
        logit_transform (Callable): what the model applies to the head's output
            (identity, a soft cap, a scale)
        description (str): the transform in words, for messages
        rounds_to (torch.dtype or None): the precision of layers with 8-bit weights,
            whose rounding depends on all positions of a pass. None if there are none
    """

    layers: list[nn.Module]
    final_norm: nn.Module | None
    head: nn.Module
    logit_transform: LogitTransform
    description: str
    rounds_to: torch.dtype | None = None


class _Known:
    """A decoder that was found, and what it was found in."""

    def __init__(self, model: nn.Module, decoder: Decoder) -> None:
        self.decoder = decoder
        self.modules = [weakref.ref(module) for module in model.modules()]
        self.settings = _settings(model)

    def holds_for(self, model: nn.Module) -> bool:
        """Whether the model still has the same modules and settings."""
        modules = list(model.modules())
        return (
            len(modules) == len(self.modules)
            and all(ref() is module for ref, module in zip(self.modules, modules))
            and self.settings == _settings(model)
        )


_KNOWN: "weakref.WeakKeyDictionary[nn.Module, _Known]" = weakref.WeakKeyDictionary()


def find_decoder(model: nn.Module) -> Decoder:
    """Derives the decoder of a Hugging Face language or vision-language model.

    Runs the model once on a few text tokens to see which module normalises the last
    layer's output, and which transform of the head's output gives the model's logits.

    Args:
        model (nn.Module): a model with ``get_decoder()`` and
            ``get_output_embeddings()``

    Returns:
        Decoder

    Raises:
        TypeError: the model is not of that kind.
        RuntimeError: what was derived does not reproduce the model's logits.
    """
    layers, head = find_layers(model), output_head(model)
    known = _KNOWN.get(model)
    if known is None or not known.holds_for(model):
        known = _KNOWN[model] = _Known(model, _probe(model, layers, head))
    return known.decoder


def forget_decoder(decoder: Decoder) -> None:
    """Lets a decoder that has turned out wrong be found anew at the next call."""
    for model, known in list(_KNOWN.items()):
        if known.decoder is decoder:
            del _KNOWN[model]


def _probe(model: nn.Module, layers: list[nn.Module], head: nn.Module) -> Decoder:
    last_output: list[Tensor] = []
    norm_of_last_output: list[nn.Module] = []

    def keep_last_output(module: nn.Module, args: Any, output: Any) -> None:
        # Of the layers that run: a model may skip those that read an image.
        last_output.append(hidden_of(output))
        norm_of_last_output.clear()

    def keep_if_fed_by_last(module: nn.Module, args: Any, kwargs: Any) -> None:
        fed = args[0] if args else kwargs.get("hidden_states")
        if last_output and fed is last_output[-1] and module is not head:
            norm_of_last_output.append(module)

    ids = _probe_ids(model)
    every_module = dict.fromkeys(model.modules(), keep_if_fed_by_last)
    with (
        torch.no_grad(),
        kept_state(model),
        forward_hooks(dict.fromkeys(layers, keep_last_output)),
        # Before a user's hook that changes what a module is fed.
        forward_pre_hooks(every_module, with_kwargs=True, prepend=True),
    ):
        logits = model(**probe_inputs(model, ids)).logits

    final_norm = norm_of_last_output[0] if norm_of_last_output else None
    is_allowed = ~is_forbidden(logits)
    logits = widened(logits)
    with torch.no_grad():
        hidden = last_output[-1]
        raw = widened(head(hidden if final_norm is None else final_norm(hidden)))
        errors = [
            (float((transform(raw) - logits)[is_allowed].abs().max()), desc, transform)
            for desc, transform in _logit_transforms(model)
        ]
    error, description, transform = min(errors, key=lambda candidate: candidate[0])
    largest = float(logits[is_allowed].abs().max())
    if error <= logit_tolerance(hidden.dtype, largest):
        rounds_to = torch.float16 if _settings(model)[-1] else None
        return Decoder(layers, final_norm, head, transform, description, rounds_to)
    raise RuntimeError(
        f"The output head of {type(model).__name__} on its last decoder layer does not "
        "reproduce the model's logits, neither as it is nor with the soft cap or scale "
        "of its configuration. The logit lens has no meaning for this model as it is."
    )


def _logit_transforms(model: nn.Module) -> Iterator[tuple[str, LogitTransform]]:
    """Candidates, the plain head first: a declared cap or scale may not be applied."""
    yield "the head's output as it is", _identity
    cap, scale, divisor, _ = _settings(model)
    if scale is None and divisor:
        scale = 1.0 / divisor
    if cap:
        yield f"a soft cap of {cap}", lambda raw: cap * torch.tanh(raw / cap)
    if scale:
        yield f"a scale of {scale}", lambda raw: raw * scale
    if cap and scale:
        yield (
            f"a scale of {scale} and a soft cap of {cap}",
            lambda raw: cap * torch.tanh(raw * scale / cap),
        )


def _settings(model: nn.Module) -> tuple[Any, ...]:
    """The soft cap, scale and divisor of a configuration, and whether weights are
    integers."""
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    is_int8 = any(weight.dtype == torch.int8 for weight in model.parameters())
    return (*(getattr(text, name, None) for name in names), is_int8)


def _identity(raw: Tensor) -> Tensor:
    return raw


def _probe_ids(model: nn.Module) -> Tensor:
    """A few text tokens; neither padding, whose embedding may be zero, nor an image."""
    root: Any = model
    embeddings: Any = input_embeddings(model).weight
    special = {
        value
        for config in (root.config, root.config.get_text_config(decoder=True))
        for name, value in vars(config).items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    ids = [id for id in range(min(64, embeddings.shape[0])) if id not in special][-8:]
    return torch.tensor([ids], device=device_of(model))
