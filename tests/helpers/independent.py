"""Equations (3) to (6) as they are written: slow, and independent of the package.

Nothing of ``captum_dexar`` is imported. Every step is a pass of its own over the whole
prefix, without a cache, in float64, with eager attention and plain autograd. The logit
lens is the model's own tail: the outputs of all layers are put in the place of the last
layer's, side by side, so that norm, head and soft cap need not be known.
"""

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tests.helpers.in_double import in_double
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

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
OTHER_LAYERS = ("NemotronHBlock", "Kosmos2_5TextBlock", "T5Block", "UdopBlock")
# Families whose layers pass on several streams, the first axis of their states.
STREAMS_FIRST = ("gemma3n",)
# Families whose end reads the states of earlier blocks together with a layer's own. How
# many there are depends on the layer, so that layers are joined behind the end.
READ_WITH_BLOCKS = ("inkling2",)
# Families that this reference cannot read. Kosmos-2: its mask is made in float32.
WITHOUT_REFERENCE = ("kosmos-2",)
# Attention modules whose keys are the image's, or an encoder's image and prompt.
CROSS_ATTENTION = ("cross_attn", "encoder_attn", "EncDecAttention")
# Families whose attention modules return something else than their probabilities.
RETURN_OTHERS = ("udop", "t5gemma2")
SOFTMAXES = (nn.functional.softmax, torch.softmax, Tensor.softmax)


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
    """Probabilities of an attention call, ``(1, heads, queries, keys)``, and which keys
    a query may read."""

    probabilities: Tensor
    may_read: Tensor
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
    precision = in_double(model.config.model_type)
    with torch.enable_grad(), precision, _recorded(model) as attention:
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
    tokens = _image_tokens(config, prefix)
    reads_across = config.model_type == "mllama" or (
        _has_encoder(config) and config.model_type != "t5gemma2"
    )
    images, texts = [], []
    for call, gradient in zip(calls, gradients):
        last = gradient[0, :, -1].where(call.may_read[0, :, -1], 0.0)
        if call.is_cross != reads_across:
            # Self-attention of a model that reads the image by cross-attention.
            images.append(last.new_zeros(len(last), len(tokens)))
            texts.append(last)
            continue
        keys = tokens
        if config.model_type == "t5gemma2":
            # The encoder's tokens come after the decoder's own.
            keys = tokens + last.shape[-1] - prefix["input_ids"].shape[1]
        is_text = torch.ones(last.shape[-1], dtype=torch.bool)
        is_text[keys[keys >= 0]] = False
        images.append(last[:, keys].where(keys >= 0, 0.0))
        texts.append(last[:, is_text])
    longest = max(text.shape[1] for text in texts)
    padded = [nn.functional.pad(text, (0, longest - text.shape[1])) for text in texts]
    return torch.cat(images), torch.cat(padded)


def _image_tokens(config: Any, prefix: Mapping[str, Any]) -> Tensor:
    """Where the image tokens are among the prompt's, or among an encoder's states; -1
    for one that is not there."""
    if config.model_type == "kosmos-2.5":
        return prefix["image_embeds_position_mask"][0].nonzero()[:, 0]
    ids = prefix["input_ids"][0]
    if config.model_type == "mllama":
        # All keys of a cross-attention are the image's: tiles with a class token each.
        _, pictures, tiles, *_ = prefix["pixel_values"].shape
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return torch.arange(pictures * tiles * (1 + patches))
    if config.model_type == "udop":
        # A patch without a word follows the words, the others belong to these.
        side = config.image_size // config.patch_size
        of_words = set()
        for x0, y0, x1, y1 in prefix["bbox"][0].tolist():
            column, row = (
                min(int(at / 2 * side), side - 1) for at in (x0 + x1, y0 + y1)
            )
            of_words.add(row * side + column)
        places, following = [], len(ids)
        for patch in range(side**2):
            places.append(-1 if patch in of_words else following)
            following += patch not in of_words
        return torch.tensor(places)
    return (ids == config.image_token_id).nonzero()[:, 0]


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
    is_of_blocks = root.config.model_type in READ_WITH_BLOCKS
    blocks: list[Tensor] = []
    softmaxes = _Softmaxes()

    def keep(index: int, name: str, output: Any) -> None:
        probabilities = output[1] if isinstance(output, tuple) else None
        if isinstance(probabilities, Tensor) and probabilities.dim() == 4:
            call = _Attention(
                probabilities,
                softmaxes.may_read(probabilities),
                name.endswith(CROSS_ATTENTION),
            )
            attention[index].append(call)

    def keep_attention(index: int, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # T5's probabilities come behind a position bias.
            is_t5 = type(module).__name__ == "T5Attention"
            keep(index, name, output[1:] if is_t5 else output)

        return hook

    def keep_output(module: nn.Module, args: Any, output: Any) -> Any:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        if is_of_blocks:
            # The layer's input is the state of the block that ends before it.
            hidden, before = args
            starts = module.is_block_boundary
            ended = [hidden.unsqueeze(-2)] if starts else []
            blocks.append(torch.cat([before, *ended], dim=-2))
            return None
        if len(outputs) < len(layers):
            return None
        every = torch.cat(outputs, dim=batch_axis)
        return (every, *output[1:]) if isinstance(output, tuple) else every

    def read_blocks(module: nn.Module, args: Any, output: Any) -> Any:
        states = zip(blocks, outputs)
        return (torch.cat([module.forward(*of_layer)[0] for of_layer in states]),)

    handles = []
    if is_of_blocks:
        end = root.get_submodule("model.language_model.final_input")
        handles.append(end.register_forward_hook(read_blocks))
    names: dict[nn.Module, tuple[int, str]] = {}
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_hook(keep_output))
        for name, module in layer.named_modules():
            kind = type(module).__name__
            # T5 calls what is around its attention so, too.
            if kind.endswith("Attention") and not kind.startswith("T5Layer"):
                names[module] = index, name
    if root.config.model_type not in RETURN_OTHERS:
        for module, place in names.items():
            handles.append(module.register_forward_hook(keep_attention(*place)))
    source: Any = sys.modules[type(model).__module__]
    eager = getattr(source, "eager_attention_forward", None)

    def kept(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = eager(module, *args, **kwargs)
        if module in names:
            keep(*names[module], output)
        return output

    if root.config.model_type in RETURN_OTHERS:
        source.eager_attention_forward = kept
    try:
        with softmaxes:
            yield attention
    finally:
        if root.config.model_type in RETURN_OTHERS:
            source.eager_attention_forward = eager
        for handle in handles:
            handle.remove()


class _Softmaxes(TorchFunctionMode):
    """Which keys the latest softmax has a probability for.

    Eager attention asks for float32, in which a small one is zero, as that of a key
    that may not be read. In float64 it is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latest = torch.empty(0, dtype=torch.bool)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in SOFTMAXES:
            self.latest = args[0].detach().double().softmax(-1) > 0
        return func(*args, **(kwargs or {}))

    def may_read(self, probabilities: Tensor) -> Tensor:
        """Of the attention call that has just returned these probabilities."""
        is_plain = self.latest.shape == probabilities.shape
        # Others have a sink beside the keys, for example.
        return self.latest if is_plain else probabilities.detach() > 0


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the language model, by the names of their classes."""
    return [
        module
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("DecoderLayer", *OTHER_LAYERS))
        and "vision" not in name
        and not name.startswith("encoder")
        and "encoder.block" not in name
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
        text = config.get_text_config(decoder=True)
        start = getattr(text, "decoder_start_token_id", None)
        if start is None:
            start = model.generation_config.decoder_start_token_id
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
