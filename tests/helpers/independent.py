"""Equations (3) to (6) as they are written: slow, and independent of the package.

Nothing of ``captum_dexar`` is imported. Every step is a pass of its own over the whole
prefix, without a cache, in float64, with eager attention and plain autograd. The logit
lens is the model's own tail: the outputs of all layers are put in the place of the last
layer's, side by side, so that norm, head and soft cap need not be known.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

# Inputs with an entry for each token, and that of a generated token. None repeats the
# last one.
GROWING: dict[str, dict[str, int | None]] = {
    "default": {
        "attention_mask": 1,
        "token_type_ids": 0,
        "mm_token_type_ids": 0,
        "moe_mm_token_type_ids": 0,
    },
    "kosmos-2.5": {"attention_mask": 1, "image_embeds_position_mask": 0},
    "mllama": {"attention_mask": 1, "cross_attention_mask": None},
    "paligemma": {"attention_mask": 1, "token_type_ids": 1},
}
# Layers whose class is not called a decoder layer.
OTHER_LAYERS = ("NemotronHBlock", "Kosmos2_5TextBlock", "T5Block")
# Families whose layers pass on several streams, the first axis of their states.
STREAMS_FIRST = ("gemma3n",)
# Families that this reference cannot read. Inkling 2: the tail joins the last layer's
# states with those of earlier blocks, which are not side by side, and routers take no
# float64. Kosmos-2: its mask is made in float32.
WITHOUT_REFERENCE = ("inkling2", "kosmos2")
# Attention modules whose keys are the image's, or an encoder's image and prompt.
CROSS_ATTENTION = ("cross_attn", "encoder_attn", "EncDecAttention")


@dataclass(frozen=True, eq=False)
class Reference:
    """What an answer's explanation has to be.

    Attributes:
        token_attr (Tensor): un-normalised token maps, ``(steps, image tokens)``
        token_weights (Tensor): ``(steps,)``
        head_weights (Tensor): ``(steps, layers, heads)``, of layers with attention
        layer_attr (Tensor): each layer's part of the maps, ``(steps, layers, image
            tokens)``
        token_log_probs (Tensor): of the model's unprocessed logits, ``(steps,)``
    """

    token_attr: Tensor
    token_weights: Tensor
    head_weights: Tensor
    layer_attr: Tensor
    token_log_probs: Tensor


@dataclass(frozen=True, eq=False)
class _Attention:
    """Probabilities of an attention call, ``(1, heads, queries, keys)``."""

    probabilities: Tensor
    is_cross: bool


def exact(model: nn.Module) -> nn.Module:
    """A copy of a model in float64, with eager attention."""
    copied: Any = copy.deepcopy(model).double().requires_grad_()
    copied.set_attn_implementation("eager")
    reference: nn.Module = copied
    return reference


def independent(
    reference: nn.Module, inputs: Mapping[str, Any], answer: Tensor
) -> Reference:
    """Explains every token of an answer to one prompt.

    Args:
        reference (nn.Module): what :func:`exact` makes of the model
        inputs (Mapping): the prompt, as the processor makes it, without padding
        answer (Tensor): the answer's ids, ``(steps,)``
    """
    steps = [
        _one_step(reference, grown_inputs(reference, inputs, answer[:step]), int(token))
        for step, token in enumerate(answer)
    ]
    return Reference(*(torch.stack(values) for values in zip(*steps)))


def _one_step(model: Any, prefix: dict[str, Any], token: int) -> tuple[Tensor, ...]:
    """The fields of :class:`Reference` for one token."""
    given = dict(prefix)
    if "inputs_embeds" in given:
        given.pop("input_ids")
    with torch.enable_grad(), _recorded(model) as attention:
        logits = model(**given, use_cache=False).logits[:, -1]
    maps, weights, best_image, best_text = [], [], [], []
    for layer, calls in enumerate(attention):
        if not calls:
            continue
        # (3): what the model's own tail makes of this layer's output.
        reading = logits[layer, token]
        gradients = torch.autograd.grad(
            reading, [call.probabilities for call in calls], retain_graph=True
        )
        image, text = _split(model.config, prefix, calls, gradients)
        # (4): the largest positive gradient of each head; no key at all gives zero.
        image_scores, text_scores = largest(image), largest(text)
        # (5): heads that the image would raise more than the text does.
        of_head = (image_scores - text_scores).relu()
        maps.append((of_head[:, None] * image.relu()).sum(0))
        weights.append(of_head)
        best_image.append(image_scores.max())
        best_text.append(text_scores.max())
    # (6): the token's weight.
    weight = (torch.stack(best_image).max() - torch.stack(best_text).max()).relu()
    log_prob = logits[-1].log_softmax(-1)[token]
    layer_maps = torch.stack(maps)
    return (
        layer_maps.sum(0),
        weight,
        # Layers may differ in their number of heads: zeros follow those of the others.
        nn.utils.rnn.pad_sequence(weights, batch_first=True),
        layer_maps,
        log_prob.detach(),
    )


def _split(
    config: Any,
    prefix: Mapping[str, Any],
    calls: list[_Attention],
    gradients: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor]:
    """A layer's gradients at the last query: of image keys ``(heads, image tokens)``,
    and of all other keys ``(heads, keys)``. Keys that it may not read are zero."""
    if config.model_type == "kosmos-2.5":
        is_placeholder = prefix["image_embeds_position_mask"][0] > 0
    else:
        is_placeholder = prefix["input_ids"][0] == config.image_token_id
    reads_across = config.model_type == "mllama" or _has_encoder(config)
    if config.model_type == "mllama":
        # All keys of a cross-attention are the image's: tiles with a class token each.
        _, pictures, tiles, *_ = prefix["pixel_values"].shape
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        is_placeholder = torch.ones(pictures * tiles * (1 + patches), dtype=torch.bool)
    images, texts = [], []
    for call, gradient in zip(calls, gradients):
        last = gradient[0, :, -1].where(call.probabilities[0, :, -1] > 0, 0.0)
        if call.is_cross != reads_across:
            # Self-attention of a model that reads the image by cross-attention.
            images.append(last.new_zeros(len(last), len(is_placeholder.nonzero())))
            texts.append(last)
            continue
        is_image = torch.zeros(last.shape[-1], dtype=torch.bool)
        is_image[: len(is_placeholder)] = is_placeholder
        images.append(last[:, is_image])
        texts.append(last[:, ~is_image])
    longest = max(text.shape[1] for text in texts)
    padded = [nn.functional.pad(text, (0, longest - text.shape[1])) for text in texts]
    return torch.cat(images), torch.cat(padded)


def largest(gradients: Tensor) -> Tensor:
    """The largest positive value of each row, zero where there is none."""
    return nn.functional.pad(gradients, (0, 1)).amax(-1)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[list[_Attention]]]:
    """Collects the attention calls of each decoder layer, and reads all layers with the
    model's own tail: its logits are then ``(layers, positions, vocabulary)``."""
    layers = decoder_layers(model)
    attention: list[list[_Attention]] = [[] for _ in layers]
    outputs: list[Tensor] = []
    root: Any = model
    batch_axis = 1 if root.config.model_type in STREAMS_FIRST else 0

    def keep_attention(index: int, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            probabilities = output[1] if isinstance(output, tuple) else None
            if type(module).__name__ == "T5Attention":
                # A bias comes before them.
                probabilities = output[2]
            if isinstance(probabilities, Tensor) and probabilities.dim() == 4:
                is_cross = name.endswith(CROSS_ATTENTION)
                attention[index].append(_Attention(probabilities, is_cross))

        return hook

    def keep_output(module: nn.Module, args: Any, output: Any) -> Any:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        if len(outputs) < len(layers):
            return None
        every = torch.cat(outputs, dim=batch_axis)
        return (every, *output[1:]) if isinstance(output, tuple) else every

    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_hook(keep_output))
        for name, module in layer.named_modules():
            kind = type(module).__name__
            # T5 calls what is around its attention so, too.
            if kind.endswith("Attention") and not kind.startswith("T5Layer"):
                handles.append(
                    module.register_forward_hook(keep_attention(index, name))
                )
    try:
        yield attention
    finally:
        for handle in handles:
            handle.remove()


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the language model, by the names of their classes."""
    return [
        module
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("DecoderLayer", *OTHER_LAYERS))
        and not any(part in name for part in ("vision", "encoder.block"))
    ]


def _has_encoder(config: Any) -> bool:
    """InstructBLIP says so of its language model only."""
    text = config.get_text_config(decoder=True)
    return bool(config.is_encoder_decoder or text.is_encoder_decoder)


def grown_inputs(
    model: Any, inputs: Mapping[str, Any], answer: Tensor
) -> dict[str, Any]:
    """The model's inputs for the prompt and the first tokens of the answer."""
    config = model.config
    grown = {
        name: (
            value.double()
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
        )
        for name, value in inputs.items()
    }
    ids: Tensor = grown["input_ids"]
    if _has_encoder(config):
        start = config.get_text_config(decoder=True).decoder_start_token_id
        first = grown.get("decoder_input_ids", torch.tensor([[start]]))
        return {**grown, "decoder_input_ids": torch.cat([first, answer[None]], dim=1)}
    # Without a mask, positions with gaps are taken for those of several sequences.
    grown.setdefault("attention_mask", torch.ones_like(ids))
    grown["input_ids"] = torch.cat([ids, answer[None]], dim=1)
    for name, fill in GROWING.get(config.model_type, GROWING["default"]).items():
        if name in grown:
            last = grown[name][:, -1:]
            ending = last if fill is None else torch.full_like(last, fill)
            grown[name] = torch.cat([grown[name], *[ending] * len(answer)], dim=1)
    if "position_ids" in grown:
        following = grown["position_ids"][..., -1:] + 1 + torch.arange(len(answer))
        grown["position_ids"] = torch.cat([grown["position_ids"], following], dim=-1)
    if "inputs_embeds" in grown:
        embedded = model.get_input_embeddings()(answer[None])
        grown["inputs_embeds"] = torch.cat([grown["inputs_embeds"], embedded], dim=1)
    return grown
