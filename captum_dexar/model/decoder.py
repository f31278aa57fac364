"""Finding a model's decoder layers, final norm and output head, and checking them.

The logit lens of equation (3) reads a layer's output through the model's own final norm
and output head. Where these are is derived from the model, never from its name or its
configuration, and what was derived must reproduce the model's own logits.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.precision import widened
from captum_dexar.model.state import device_of
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor
from torch.utils.hooks import RemovableHandle

LogitTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Decoder:
    """What the logit lens needs to know of a language model.

    Attributes:
        layers (list of nn.Module): the decoder layers, in order
        final_norm (nn.Module or None): the norm between the last layer and the head
        head (nn.Module): the output head, hidden size to vocabulary
        logit_transform (Callable): what the model does to the head's output (identity,
            a soft cap, a scale)
        description (str): the transform in words, for messages
        rounds_to (torch.dtype or None): what layers of 8-bit weights are as coarse as;
            their rounding depends on all rows of a pass. None if there are none
    """

    layers: list[nn.Module]
    final_norm: nn.Module | None
    head: nn.Module
    logit_transform: LogitTransform
    description: str
    rounds_to: torch.dtype | None = None

    def reading(self, hidden: Tensor, target_ids: Tensor) -> Tensor:
        """The logit lens, equation (3): the target's logit as a layer would give it.

        Args:
            hidden (Tensor): output of a decoder layer, ``(batch, steps, hidden size)``
            target_ids (Tensor): ``(batch, steps)``

        Returns:
            *Tensor* of **logits**, ``(batch, steps)``, float32 at least.
        """
        return LogitLens(self, target_ids).read(hidden)

    def check(self, last_hidden: Tensor, target_ids: Tensor, logits: Tensor) -> None:
        """Raises if the lens on the last layer is not the model's own logit.

        Args:
            last_hidden (Tensor): last layer's output, ``(batch, steps, hidden size)``
            target_ids (Tensor): ``(batch, steps)``
            logits (Tensor): the model's logits, ``(batch, steps, vocabulary)``
        """
        target_logits = TargetLogits.of(logits, target_ids)
        self.check_reading(
            self.reading(last_hidden, target_ids), target_ids, target_logits
        )

    def check_reading(
        self, reading: Tensor, target_ids: Tensor, target_logits: TargetLogits
    ) -> None:
        """Raises if the lens on the last layer is not the model's own logit.

        Args:
            reading (Tensor): the lens on the last layer, ``(batch, steps)``
            target_ids (Tensor): ``(batch, steps)``
            target_logits (TargetLogits): the model's own logits of the targets
        """
        theirs = target_logits.logits.to(reading.device)
        forbidden = _is_forbidden(theirs)
        if bool(forbidden.any()):
            raise ValueError(
                "The target holds tokens that the model never says, whose logits it "
                "replaces by the lowest number: "
                f"{sorted(set(target_ids.to(forbidden.device)[forbidden].tolist()))}."
            )
        error = (reading - widened(theirs)).abs().max().item()
        dtypes = {theirs.dtype, self.rounds_to or theirs.dtype}
        largest = float(target_logits.largest)
        if not error <= max(_tolerance(dtype, largest) for dtype in dtypes):
            raise RuntimeError(
                "The logit lens does not reproduce this model: on its last layer it is "
                f"off by up to {error:.3g} from the model's own logits, with "
                f"{self.description}. Attributions would be wrong, so none are given."
            )


_DECODERS: "weakref.WeakKeyDictionary[nn.Module, Decoder]" = weakref.WeakKeyDictionary()


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
    layers, head = find_layers(model), _output_head(model)
    known = _DECODERS.get(model)
    if known and known.head is head and known.layers == layers:
        return known
    decoder = _probe(model, layers, head)
    _DECODERS[model] = decoder
    return decoder


def find_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of a model, in order.

    Raises:
        TypeError: the model has no decoder or output head, or its layers are not found.
    """
    _output_head(model)
    root: Any = model
    text = root.config.get_text_config(decoder=True)
    decoder, names = root.get_decoder(), ["num_hidden_layers"]
    if getattr(root.config, "is_encoder_decoder", False):
        # The first answer may be encoder and decoder together.
        decoder = decoder.get_decoder()
        names = ["decoder_layers", "num_decoder_layers", *names]
    num_layers = next(getattr(text, name) for name in names if hasattr(text, name))
    waiting: deque[nn.Module] = deque([decoder])
    while waiting:
        module = waiting.popleft()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return list(module)
        waiting.extend(module.children())
    raise TypeError(
        f"No list of {num_layers} decoder layers was found in the decoder of "
        f"{type(model).__name__}."
    )


def _output_head(model: nn.Module) -> nn.Module:
    root: Any = model
    has_parts = all(
        hasattr(model, name)
        for name in ("config", "get_decoder", "get_output_embeddings")
    )
    head = root.get_output_embeddings() if has_parts else None
    if not isinstance(head, nn.Module):
        raise TypeError(
            "Expected a Hugging Face vision-language model with a decoder and an "
            f"output head, got {type(model).__name__}. Load it with "
            "AutoModelForImageTextToText.from_pretrained."
        )
    return head


def _probe(model: nn.Module, layers: list[nn.Module], head: nn.Module) -> Decoder:
    last_output: list[Tensor] = []
    norm_of_last_output: list[nn.Module] = []
    handles: list[RemovableHandle] = []

    def keep_last_output(module: nn.Module, args: Any, output: Any) -> None:
        # Of the layers that run: a model may skip those that read an image.
        last_output.append(hidden_of(output))
        norm_of_last_output.clear()

    def keep_if_fed_by_last(module: nn.Module, args: Any, kwargs: Any) -> None:
        fed = args[0] if args else kwargs.get("hidden_states")
        if last_output and fed is last_output[-1] and module is not head:
            norm_of_last_output.append(module)

    try:
        for layer in layers:
            handles.append(layer.register_forward_hook(keep_last_output))
        for module in model.modules():
            handles.append(
                module.register_forward_pre_hook(keep_if_fed_by_last, with_kwargs=True)
            )
        ids = _probe_ids(model)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    finally:
        for handle in handles:
            handle.remove()

    final_norm = norm_of_last_output[0] if norm_of_last_output else None
    is_allowed = ~_is_forbidden(logits)
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
    if error <= _tolerance(hidden.dtype, largest):
        is_int8 = any(weight.dtype == torch.int8 for weight in model.parameters())
        rounds_to = torch.float16 if is_int8 else None
        return Decoder(layers, final_norm, head, transform, description, rounds_to)
    raise RuntimeError(
        f"The output head of {type(model).__name__} on its last decoder layer does not "
        "reproduce the model's logits, neither as it is nor with the soft cap or scale "
        "of its configuration. The logit lens has no meaning for this model as it is."
    )


def _logit_transforms(model: nn.Module) -> Iterator[tuple[str, LogitTransform]]:
    """Candidates, the plain head first: a declared cap or scale may not be applied."""
    yield "the head's output as it is", _identity
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    cap = getattr(text, "final_logit_softcapping", None)
    scale = getattr(text, "logit_scale", None)
    divisor = getattr(text, "logits_scaling", None)
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


def _identity(raw: Tensor) -> Tensor:
    return raw


def _is_forbidden(logits: Tensor) -> Tensor:
    """Tokens that a model never says get the lowest number, or minus infinity."""
    return logits < torch.finfo(logits.dtype).min / 2


def _tolerance(dtype: torch.dtype, largest: float) -> float:
    """Rounding of the logits' dtype, through one norm and one matrix product."""
    return float(torch.finfo(dtype).eps ** 0.5) * max(1.0, largest)


def _probe_ids(model: nn.Module) -> Tensor:
    """A few text tokens; neither padding, whose embedding may be zero, nor an image."""
    root: Any = model
    embeddings = root.get_input_embeddings().weight
    special = {
        value
        for config in (root.config, root.config.get_text_config(decoder=True))
        for name, value in vars(config).items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    ids = [id for id in range(min(64, embeddings.shape[0])) if id not in special][-8:]
    return torch.tensor([ids], device=device_of(model))


def hidden_of(layer_output: Any) -> Tensor:
    """A decoder layer's hidden states: most return a tensor, a few a tuple."""
    hidden = layer_output[0] if isinstance(layer_output, tuple) else layer_output
    assert isinstance(hidden, Tensor)
    return hidden


def layer_indices(
    decoder_layers: list[nn.Module], layer: nn.Module | list[nn.Module] | None
) -> list[int]:
    """Positions of the chosen layers in the decoder, in the order they were given.

    Raises:
        ValueError: a layer is not one of the decoder's, or none or one twice is given.
    """
    if layer is None:
        return list(range(len(decoder_layers)))
    chosen = list(layer) if isinstance(layer, (list, tuple, nn.ModuleList)) else [layer]
    position = {id(module): index for index, module in enumerate(decoder_layers)}
    for module in chosen:
        if id(module) not in position:
            raise ValueError(
                "layer must be a decoder layer of the language model (one of "
                f"{len(decoder_layers)} {type(decoder_layers[0]).__name__}), or a list "
                f"of them, got {type(module).__name__} which is none of them."
            )
    indices = [position[id(module)] for module in chosen]
    if not indices or len(set(indices)) < len(indices):
        raise ValueError(
            f"layer must name at least one decoder layer and none twice, got {indices}."
        )
    return indices


def modules_of_layers(
    decoder: Decoder, layers: list[int], cross_attention: str | None
) -> tuple[dict[nn.Module, int], set[nn.Module]]:
    """All modules inside some decoder layers.

    Args:
        decoder (Decoder): the model's decoder
        layers (list of int): indices of its layers
        cross_attention (str or None): name of a module inside a layer

    Returns:
        *tuple* of the index of each module's layer, and the modules that are, or are
        inside, one of that name.
    """
    layer_of: dict[nn.Module, int] = {}
    crossing: set[nn.Module] = set()
    for index in layers:
        for name, module in decoder.layers[index].named_modules():
            layer_of[module] = index
            if name == cross_attention:
                crossing.update(module.modules())
    return layer_of, crossing
