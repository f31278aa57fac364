"""DEX-AR written down literally for a tiny LLaVA, whatever it is wrapped in.

Plain autograd through the whole model, one token at a time, with an attention of its
own. It shares nothing with the package: it finds the layers by their names.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from captum_dexar import LayerDexAR, VLMAttribution
from tests.helpers.explained import relative_error
from tests.helpers.tiny_models import IMAGE_TOKEN, prompt_inputs
from torch import nn, Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.models.llama import modeling_llama


@dataclass(frozen=True, eq=False)
class Literal:
    """Maps ``(steps, image tokens)`` and log-probabilities ``(steps,)``."""

    token_attr: Tensor
    token_log_probs: Tensor


@dataclass(eq=False)
class _Seen:
    """Of one pass, by layer."""

    probabilities: dict[int, Tensor] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)


def literal(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    answer: Sequence[int],
    *,
    on_cache: bool = False,
    in_float64: bool = True,
) -> Literal:
    """Equations (3) to (5) for every token of an answer.

    Args:
        model: what the user has, wrapped, hooked and all
        inputs: ids and pixels of one prompt
        answer: its tokens
        on_cache: whether the prompt is run once and each token on the cache, as
            ``generate`` does, instead of a growing prefix
        in_float64: whether a copy of the model in float64 is run
    """
    if in_float64:
        model = copy.deepcopy(model).double()
    dtype = next(iter(model.parameters())).dtype
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    base: Any = next(m for m in model.modules() if isinstance(m, GenerationMixin))
    text = base.get_decoder()
    maps, log_probs = [], []
    cache = DynamicCache(config=base.config.get_text_config()) if on_cache else None
    with _watched(base, text) as seen, torch.enable_grad():
        for step, token in enumerate(answer):
            logits = _logits(model, inputs, answer[:step], cache)
            log_probs.append(logits.detach().double().log_softmax(-1)[token])
            readings = {
                layer: base.lm_head(text.norm(hidden))[0, -1, token]
                for layer, hidden in seen.hidden.items()
            }
            ids = torch.cat(
                [inputs["input_ids"][0], torch.tensor(answer[:step]).long()]
            )
            maps.append(_map(seen, readings, ids == IMAGE_TOKEN))
            if cache is not None:
                _detach(cache)
    return Literal(torch.stack(maps), torch.stack(log_probs))


def _logits(
    model: nn.Module, inputs: Mapping[str, Tensor], answer: Sequence[int], cache: Any
) -> Tensor:
    """Of the next token, ``(vocabulary,)``."""
    fed = torch.tensor([list(answer)], dtype=torch.long)
    ids = torch.cat([inputs["input_ids"], fed], dim=1)
    given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if cache is not None and answer:
        given["input_ids"] = ids[:, -1:]
        del given["pixel_values"]
    kept = {"use_cache": cache is not None, "past_key_values": cache}
    logits: Tensor = model(**given, **kept).logits
    return logits[0, -1]


def _map(seen: _Seen, readings: dict[int, Tensor], is_image: Tensor) -> Tensor:
    total = torch.zeros(int(is_image.sum()), dtype=torch.float64)
    for layer, reading in readings.items():
        (gradient,) = torch.autograd.grad(
            reading, seen.probabilities[layer], retain_graph=True
        )
        raising = gradient[0, :, -1].double().relu()
        image, other = raising[:, is_image], raising[:, ~is_image]
        weights = (image.amax(-1) - other.amax(-1)).relu()
        total += (weights[:, None] * image).sum(0)
    return total


def _detach(cache: Any) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.detach(), layer.values.detach()


@contextmanager
def _watched(base: Any, text: Any) -> Iterator[_Seen]:
    """Runs an eager attention of our own, and keeps what it makes."""
    seen = _Seen()

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any
    ) -> tuple[Tensor, Tensor]:
        copies = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(copies, dim=1) for part in (key, value))
        scores = query @ key.transpose(2, 3) * given["scaling"]
        if mask is not None:
            scores = scores + mask[..., : key.shape[2]]
        wide = torch.promote_types(scores.dtype, torch.float32)
        probabilities = scores.softmax(-1, dtype=wide).to(query.dtype)
        if not probabilities.requires_grad:
            probabilities.requires_grad_()
        seen.probabilities[module.layer_idx] = probabilities
        output = (probabilities @ value).transpose(1, 2).contiguous()
        return output, probabilities

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen.hidden[index] = hidden

        return hook

    # After the user's own hooks, whose changes are part of the model.
    handles = [
        layer.register_forward_hook(keep(index))
        for index, layer in enumerate(text.layers)
    ]
    before = base.config.text_config._attn_implementation
    eager = modeling_llama.eager_attention_forward
    try:
        base.set_attn_implementation("eager")
        vars(modeling_llama)["eager_attention_forward"] = attention
        yield seen
    finally:
        vars(modeling_llama)["eager_attention_forward"] = eager
        base.set_attn_implementation(before)
        for handle in handles:
            handle.remove()


# The ways in which a user comes to explanations.

TARGET = [40, 41, 42]
FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
SEEDS = (1, 2)
# The answer's ids, the maps and the log-probabilities.
Explained = tuple[list[int], Tensor, Tensor]


def _explained(*results: Any) -> Explained:
    return (
        [token for result in results for token in result.target_ids.tolist()],
        torch.cat([result.token_attr for result in results]),
        torch.cat([result.token_log_probs for result in results]),
    )


def given(method: LayerDexAR) -> list[Explained]:
    inputs = prompt_inputs(SEEDS[0])
    return [_explained(VLMAttribution(method).attribute(inputs, target=TARGET))]


def given_list(method: LayerDexAR) -> list[Explained]:
    inputs = [prompt_inputs(seed) for seed in SEEDS]
    targets = [TARGET, TARGET[::-1]]
    results = VLMAttribution(method).attribute(inputs, target=targets)
    return [_explained(result) for result in results]


def generated(method: LayerDexAR) -> list[Explained]:
    inputs = prompt_inputs(SEEDS[0])
    return [_explained(VLMAttribution(method).attribute(inputs, gen_args=FEW))]


def generated_list(method: LayerDexAR) -> list[Explained]:
    inputs = [prompt_inputs(seed) for seed in SEEDS]
    results = VLMAttribution(method).attribute(inputs, gen_args=FEW)
    return [_explained(result) for result in results]


def streamed(method: LayerDexAR) -> list[Explained]:
    results = list(VLMAttribution(method).stream(prompt_inputs(SEEDS[0]), FEW))
    assert len(results) == FEW["max_new_tokens"]
    return [_explained(*results)]


WAYS = {
    way.__name__: way
    for way in (given, given_list, generated, generated_list, streamed)
}


def assert_literal(
    model: nn.Module,
    way: str,
    engine: str = "closed_form",
    tolerance: float = 1e-5,
    **options: Any,
) -> None:
    """An explanation equals the literal one; see :func:`literal` for the options.

    Where rounding is larger than the tolerance, as that of some models is on some CPUs,
    it is no worse than that of the literal one in float32.
    """
    options.setdefault("on_cache", not way.startswith("given"))
    results = WAYS[way](LayerDexAR(model, engine=engine))
    for seed, (answer, token_attr, log_probs) in zip(SEEDS, results):
        inputs = prompt_inputs(seed)
        reference = literal(model, inputs, answer, **options)
        error = relative_error(token_attr, reference.token_attr)
        if error > tolerance:
            rounded = literal(model, inputs, answer, in_float64=False, **options)
            rounding = relative_error(rounded.token_attr, reference.token_attr)
            assert error <= 4 * rounding < 1e-3
        torch.testing.assert_close(
            log_probs.double(), reference.token_log_probs, rtol=tolerance, atol=1e-4
        )
