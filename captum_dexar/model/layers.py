"""The decoder layers of a model, their modules, and what goes into and out of them."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import nn, Tensor


def find_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of a model, in order.

    Raises:
        TypeError: the model has no decoder or output head, its layers are not found, or
            one of them is used at several places.
    """
    output_head(model)
    root: Any = model
    text = root.config.get_text_config(decoder=True)
    decoder, names = root.get_decoder(), ["num_hidden_layers"]
    if has_encoder(root.config):
        # The first answer may be encoder and decoder together.
        decoder = decoder.get_decoder()
        names = ["decoder_layers", "num_decoder_layers", *names]
    num_layers = next(getattr(text, name) for name in names if hasattr(text, name))
    waiting: deque[tuple[nn.Module, nn.Module]] = deque([(decoder, decoder)])
    while waiting:
        module, owner = waiting.popleft()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            layers = list(module)
            if len(set(layers)) < num_layers:
                raise TypeError(
                    f"The decoder of {type(model).__name__} runs one layer at several "
                    "places, so that its attention can't be told apart. Use copies of "
                    "the layer."
                )
            return _with_gated_blocks(owner, layers)
        waiting.extend((child, module) for child in module.children())
    raise TypeError(
        f"No list of {num_layers} decoder layers was found in the decoder of "
        f"{type(model).__name__}."
    )


def has_encoder(config: Any) -> bool:
    """Whether an encoder reads the prompt and a decoder writes the answer.

    Some models (InstructBLIP) say so of their language model alone.
    """
    parts = config, config.get_text_config(decoder=True)
    return any(getattr(part, "is_encoder_decoder", False) for part in parts)


def _with_gated_blocks(owner: Any, layers: list[nn.Module]) -> list[nn.Module]:
    """The layers with the blocks of cross-attention that run between them (IDEFICS)."""
    blocks = getattr(owner, "gated_cross_attn_layers", None)
    if blocks is None:
        return layers
    every: list[nn.Module] = []
    for index, layer in enumerate(layers):
        if index % owner.cross_layer_interval == 0:
            every.append(blocks[index // owner.cross_layer_interval])
        every.append(layer)
    return every


def output_head(model: nn.Module) -> nn.Module:
    """The module that maps hidden states to the vocabulary.

    Raises:
        TypeError: the model has none, or no decoder.
    """
    root: Any = model
    has_parts = all(
        hasattr(model, name)
        for name in ("config", "get_decoder", "get_output_embeddings")
    )
    head = root.get_output_embeddings() if has_parts else None
    if head is None and has_parts:
        # A whole language model inside may have it.
        inner = (getattr(m, "get_output_embeddings", None) for m in model.modules())
        heads = (get() for get in inner if get is not None)
        head = next((one for one in heads if one is not None), None)
    if not isinstance(head, nn.Module):
        raise TypeError(
            "Expected a Hugging Face vision-language model with a decoder and an "
            f"output head, got {type(model).__name__}. Load it with "
            "AutoModelForImageTextToText.from_pretrained."
        )
    return head


def layer_indices(
    decoder_layers: list[nn.Module], layer: nn.Module | list[nn.Module] | None
) -> list[int]:
    """Indices of the chosen layers in the decoder, in the order they were given.

    Raises:
        ValueError: a layer is not one of the decoder's, none is given, or one is given
            twice.
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
    decoder_layers: list[nn.Module], indices: list[int], cross_attention: str | None
) -> tuple[dict[nn.Module, int], set[nn.Module]]:
    """All modules inside some decoder layers.

    Args:
        decoder_layers (list of nn.Module): all decoder layers, in order
        indices (list of int): the layers wanted
        cross_attention (str or None): name of the attention module inside a layer that
            reads the image, if the self-attention does not

    Returns:
        *tuple* of the index of each module's layer, and the modules of that name with
        everything inside them.
    """
    layer_of: dict[nn.Module, int] = {}
    of_cross_attention: set[nn.Module] = set()
    for index in indices:
        for name, module in decoder_layers[index].named_modules():
            layer_of[module] = index
            if name == cross_attention:
                of_cross_attention.update(module.modules())
    return layer_of, of_cross_attention


def hidden_of(layer_output: Any) -> Tensor:
    """The hidden states in a layer's output: most return a tensor, a few a tuple.

    Raises:
        TypeError: a layer that was put in the model's returns something else.
    """
    hidden = layer_output[0] if isinstance(layer_output, tuple) else layer_output
    return _checked(hidden, "returns")


def hidden_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states among a layer's arguments.

    Raises:
        TypeError: a layer that was put in the model's is given something else.
    """
    hidden = args[0] if args else kwargs.get("hidden_states")
    return _checked(hidden, "is given")


def _checked(hidden: Any, verb: str) -> Tensor:
    if not isinstance(hidden, Tensor):
        raise TypeError(
            f"A decoder layer {verb} a {type(hidden).__name__} instead of a tensor of "
            "hidden states, so that it can't be explained. An adapter or a module that "
            "was put around the layer does that: explain the model without it."
        )
    return hidden


def with_hidden(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments with other hidden states."""
    if args:
        return (hidden, *args[1:]), dict(kwargs)
    return args, {**kwargs, "hidden_states": hidden}
