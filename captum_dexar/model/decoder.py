"""Finding a model's decoder layers, final norm and output head.

The logit lens of equation (3) reads a layer's output through the model's own final norm
and output head. They are derived from the model, never from its name or configuration,
and must reproduce the model's own logits.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.model.endings import possible_endings
from captum_dexar.model.finite import check_finite
from captum_dexar.model.layers import find_layers, has_encoder, hidden_of, output_head
from captum_dexar.model.logit_transforms import (
    declared_settings,
    fitted_transform,
    FittedTransform,
    LogitTransform,
)
from captum_dexar.model.precision import logit_tolerance, widened
from captum_dexar.model.probe_inputs import probe_inputs
from captum_dexar.model.state import device_of, input_embeddings, kept_state
from captum_dexar.model.states import states_of
from captum_dexar.model.target_logits import is_forbidden
from captum_dexar.model.thread_hooks import forward_hooks, forward_pre_hooks
from captum_dexar.model.wrappers import generating
from torch import nn, Tensor


@dataclass(frozen=True, eq=False)
class Decoder:
    """What the logit lens needs to know of a language model.

    Attributes:
        layers (list of nn.Module): the decoder layers, in order
        final_norm (nn.Module or None): what lies between the last layer's states (see
            :func:`states_of`) and the head: a norm, or several modules as one
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
    last_states: list[Tensor] = []
    # What runs after the last layer: modules with their first argument, as they are
    # called, and their outputs.
    fed: list[tuple[nn.Module, Any]] = []
    made: dict[nn.Module, Any] = {}

    def keep_last_states(
        module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        # Of the layers that run: a model may skip those that read an image.
        last_states[:] = [states_of(module, args, kwargs, output)]
        fed.clear()
        made.clear()
        made[module] = hidden_of(output)
        fed.append((module, None))

    def keep_argument(module: nn.Module, args: Any, kwargs: Any) -> None:
        if fed:
            fed.append((module, args[0] if args else kwargs.get("hidden_states")))

    def keep_output(module: nn.Module, args: Any, output: Any) -> None:
        if fed:
            made.setdefault(module, output)

    ids = _probe_ids(model)
    modules = [module for module in model.modules() if module not in layers]
    with (
        torch.no_grad(),
        kept_state(model),
        forward_hooks(dict.fromkeys(modules, keep_output)),
        forward_hooks(dict.fromkeys(layers, keep_last_states), with_kwargs=True),
        # Before a user's hook that changes what a module is fed.
        forward_pre_hooks(
            dict.fromkeys(modules, keep_argument), with_kwargs=True, prepend=True
        ),
    ):
        logits = _logits(model, ids)

    check_finite(logits[~is_forbidden(logits)], "The logits of a few words", model)
    for ending in possible_endings(model, _chain(fed, made, head)):
        fitted = _compared(model, ending, head, last_states[0], logits)
        largest = float(logits[~is_forbidden(logits)].abs().max())
        # Some models give logits of another precision than they compute in.
        dtypes = {last_states[0].dtype, logits.dtype}
        if fitted.error <= max(logit_tolerance(dtype, largest) for dtype in dtypes):
            rounds_to = torch.float16 if _has_int8(model) else None
            transform, description = fitted.transform, fitted.description
            return Decoder(layers, ending, head, transform, description, rounds_to)
    raise RuntimeError(
        f"The output head of {type(model).__name__} on its last decoder layer does not "
        "reproduce the model's logits, neither as it is nor with a scale or the soft "
        "cap of its configuration. The logit lens has no meaning for this model as it "
        "is."
    )


def _chain(
    fed: Iterable[tuple[nn.Module, Any]], made: dict[nn.Module, Any], head: nn.Module
) -> list[nn.Module]:
    """The modules that run one after the other on the last layer's output."""
    (last, _), *calls = fed
    chain: list[nn.Module] = []
    state = made[last]
    for module, argument in calls:
        # The outermost of several modules is called first.
        has_head = any(part is head for part in module.modules())
        if _is_same(argument, state) and not has_head:
            chain.append(module)
            state = made.get(module)
    return chain


def _is_same(argument: Any, state: Any) -> bool:
    """Whether they are the same tensor, or one is a view of all of the other."""
    if argument is state:
        return True
    if not isinstance(argument, Tensor) or not isinstance(state, Tensor):
        return False
    return argument.data_ptr() == state.data_ptr() and argument.shape == state.shape


def _compared(
    model: nn.Module,
    ending: nn.Module | None,
    head: nn.Module,
    states: Tensor,
    logits: Tensor,
) -> FittedTransform:
    """How well the head gives the model's logits, with the transform that fits best."""
    with torch.no_grad():
        raw = widened(head(states if ending is None else ending(states)))
    # Some models drop the end of a padded vocabulary.
    raw = raw[..., : logits.shape[-1]]
    is_allowed = ~is_forbidden(logits)
    return fitted_transform(
        model, raw[is_allowed], widened(logits)[is_allowed], states.dtype
    )


def _settings(model: nn.Module) -> tuple[Any, ...]:
    """What a decoder is derived from, beside the modules."""
    return (*declared_settings(model), _has_int8(model))


def _has_int8(model: nn.Module) -> bool:
    return any(weight.dtype == torch.int8 for weight in model.parameters())


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits of a few text tokens."""
    root: Any = generating(model)
    if root in (
        getattr(model, name, None) for name in ("language_model", "text_model")
    ):
        # It needs no image.
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if has_encoder(root.config):
            inputs["decoder_input_ids"] = ids
        logits: Tensor = root(**inputs).logits
    else:
        logits = model(**probe_inputs(model, ids)).logits
    return logits


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
