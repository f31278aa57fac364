"""The decoding steps of an answer, as passes that any method can run.

A step ``t`` predicts the token ``v_t`` from the last position of its prefix: the prompt
and the tokens before ``v_t``. In a causal model (and in one whose mask is bidirectional
over the prompt only) no position depends on later ones, so that all steps are rows of a
single pass, and the rows' prefix may come from a cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from captum_dexar.families import adapter_for_config, FamilyAdapter
from captum_dexar.layout import ImageLayout
from captum_dexar.model_state import kept_state
from torch import nn, Tensor
from transformers import DynamicCache


@dataclass(frozen=True, eq=False)
class ModelPass:
    """One forward pass in which some positions predict known tokens.

    Attributes:
        model (nn.Module): the vision-language model
        inputs (Mapping): its keyword arguments
        rows (Tensor): positions of the pass that predict the targets, ``(steps,)``
        target_ids (Tensor): ``(batch, steps)``
        image_keys (Tensor): positions of the image tokens among all keys of the
            attention that reads them, ``(batch, image tokens)``
        num_keys (int): keys of a self-attention: length of the whole sequence, cached
            part included
        cross_attention (str or None): name of the attention module inside a decoder
            layer that reads the image, if not the self-attention does
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    rows: Tensor
    target_ids: Tensor
    image_keys: Tensor
    num_keys: int
    cross_attention: str | None = None

    def run(self) -> Tensor:
        """Runs the model; returns the rows' logits, ``(batch, steps, vocabulary)``."""
        kept = logits_of(self.model, self.rows)
        with kept_state(self.model):
            logits: Tensor = self.model(**self.inputs, **kept).logits
        if logits.shape[1] == self.rows.shape[0]:
            return logits
        return logits[:, self.rows.to(logits.device)]


class DecodingSteps:
    """The steps of a known answer to a prompt.

    Args:
        model (nn.Module): the vision-language model
        inputs (Mapping): its inputs for the prompt; batches are padded on the left
        target_ids (Tensor): the answers' tokens, ``(batch, steps)``
    """

    def __init__(
        self, model: nn.Module, inputs: Mapping[str, Any], target_ids: Tensor
    ) -> None:
        self.model = model
        self.config: Any = model.config
        self.adapter: FamilyAdapter = adapter_for_config(self.config)
        self.inputs = complete_inputs(self.adapter, inputs, self.config)
        self.image_keys = self.adapter.image_keys(self.inputs, self.config)
        is_encoder_decoder = self.adapter.is_encoder_decoder(self.config)
        self.answer_input = "decoder_input_ids" if is_encoder_decoder else "input_ids"
        self.prompt_ids: Tensor = self.inputs[self.answer_input]
        self.target_ids = target_ids.to(self.prompt_ids.device)
        self.prompt_length = self.prompt_ids.shape[1]
        self.num_steps = self.target_ids.shape[1]

    def layout(self) -> ImageLayout:
        """Grids of the image tokens, as far as the model's inputs tell.

        Raises:
            ValueError: the examples' images have different grids.
        """
        num_examples, num_tokens = self.image_keys.shape
        for name in self.adapter.grid_inputs:
            grids = torch.as_tensor(self.inputs[name]).tolist()
            per_example = len(grids) // num_examples
            if grids != grids[:per_example] * num_examples:
                raise ValueError(
                    "All examples of a batch must have images of the same grid, got "
                    f"{name} {grids}. Explain them one at a time."
                )
        return self.adapter.layout(
            self.inputs,
            num_tokens,
            image_sizes=None,
            config=self.config,
        )

    def full_pass(self) -> ModelPass:
        """Prompt and answer in one pass without a cache."""
        rows = torch.arange(self.num_steps, device=self.prompt_ids.device)
        return self._pass(
            {**self._prefix(self.num_steps - 1), "use_cache": False},
            rows + self.prompt_length - 1,
        )

    def cached_pass(self, cache: DynamicCache | None = None) -> ModelPass:
        """Only the rows that predict the answer, on a cache of what is before them.

        Args:
            cache (DynamicCache, optional): holds all positions of the prompt but the
                last; it is filled further by running the pass. Default: the prompt is
                run once to make it.
        """
        if cache is None:
            cache = self._prefilled_cache()
        whole = self._prefix(self.num_steps - 1)
        first = self.prompt_length - 1
        inputs = {
            "attention_mask": whole["attention_mask"],
            "input_ids": whole["input_ids"][:, first:],
            "position_ids": whole["position_ids"][:, first:],
            "past_key_values": cache,
            "use_cache": True,
        }
        rows = torch.arange(self.num_steps, device=self.prompt_ids.device)
        return self._pass(inputs, rows)

    def cheapest_pass(self, cache: DynamicCache | None = None) -> ModelPass:
        """The cached pass where a prompt can be replayed exactly, else the full one."""
        if self.adapter.is_replayable(self.inputs, self.config):
            return self.cached_pass(cache)
        return self.full_pass()

    def prefixes(self) -> Iterator[dict[str, Any]]:
        """The model's inputs of every step by itself, growing by a token a step."""
        for step in range(self.num_steps):
            yield self._prefix(step)

    def _pass(self, inputs: Mapping[str, Any], rows: Tensor) -> ModelPass:
        return ModelPass(
            model=self.model,
            inputs=inputs,
            rows=rows,
            target_ids=self.target_ids,
            image_keys=self.image_keys,
            num_keys=self.prompt_length + self.num_steps - 1,
            cross_attention=self.adapter.cross_attention,
        )

    def _prefix(self, num_answer_tokens: int) -> dict[str, Any]:
        """The prompt's inputs, grown by the first tokens of the answer."""
        answer = self.target_ids[:, :num_answer_tokens]
        grown = dict(self.inputs)
        grown[self.answer_input] = torch.cat([self.prompt_ids, answer], dim=1)
        if self.answer_input == "decoder_input_ids":
            return grown
        for key, fill in self.adapter.sequence_inputs.items():
            if key not in grown:
                continue
            last = grown[key][:, -1:]
            ending = last if fill is None else torch.full_like(last, fill)
            grown[key] = torch.cat([grown[key], *[ending] * answer.shape[1]], dim=1)
        if "position_ids" in grown:
            positions = grown["position_ids"]
            following = torch.arange(1, answer.shape[1] + 1, device=positions.device)
            grown["position_ids"] = torch.cat(
                [positions, positions[..., -1:] + following], dim=-1
            )
        return grown

    def _prefilled_cache(self) -> DynamicCache:
        cache = DynamicCache(config=self.config.get_text_config(decoder=True))
        if self.prompt_length == 1:
            return cache
        per_token = {"input_ids", "position_ids", *self.adapter.sequence_inputs}
        inputs = {
            key: value[:, :-1] if key in per_token else value
            for key, value in self.inputs.items()
        }
        with torch.no_grad():
            kept = logits_of(self.model, 1)
            self.model(**inputs, past_key_values=cache, use_cache=True, **kept)
        return cache


def logits_of(model: nn.Module, positions: int | Tensor) -> dict[str, Any]:
    """Arguments that ask a model for the logits of some positions only.

    A few models can't be asked; of these, some take the argument and ignore it.
    """
    parameters = signature(model.forward).parameters.values()
    can_be_asked = any(
        parameter.name == "logits_to_keep" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )
    return {"logits_to_keep": positions} if can_be_asked else {}


def complete_inputs(
    adapter: FamilyAdapter, inputs: Mapping[str, Any], config: Any
) -> dict[str, Any]:
    """A copy of the inputs with an attention mask, and explicit positions or the
    decoder's first token where the family has them."""
    complete = {key: value for key, value in inputs.items() if value is not None}
    complete.setdefault("attention_mask", torch.ones_like(complete["input_ids"]))
    if adapter.is_encoder_decoder(config):
        return adapter.with_decoder_start(complete, config)
    positions = adapter.position_ids(complete["attention_mask"])
    if positions is not None:
        complete.setdefault("position_ids", positions)
    return complete


def target_tensor(target: Sequence[int] | Tensor, vocab_size: int) -> Tensor:
    """Checks the ids of an answer.

    Args:
        target (sequence of int or Tensor): vocabulary ids, 1-D
        vocab_size (int): size of the vocabulary

    Returns:
        *Tensor* ``(steps,)``, int64, on the CPU.

    Raises:
        TypeError: the ids are not integers.
        ValueError: there is none, they are not 1-D, or one is not in the vocabulary.
    """
    ids = ids_of(target, "a string, a 1-D tensor of ids or a list of ids").cpu()
    if ids.dim() != 1:
        raise ValueError(
            "target must be 1-D, one id a decoding step, got shape "
            f"{tuple(ids.shape)}. Explain one answer at a time."
        )
    if ids.numel() == 0:
        raise ValueError("target is empty: there is no token to explain.")
    check_integers(ids)
    ids = ids.long()
    check_vocabulary(ids, vocab_size)
    return ids


def contrast_tensor(ids: Tensor, num_steps: int) -> Tensor:
    """What each step is contrasted with: the ids, cut or filled up with -1, ``(1,
    steps)``."""
    kept = ids[:num_steps]
    filling = kept.new_full((num_steps - len(kept),), -1)
    return torch.cat([kept, filling])[None]


def ids_of(target: Any, expected: str) -> Tensor:
    """The target as a tensor; raises TypeError if it can't be one."""
    try:
        return torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"target must be {expected}, got {type(target).__name__}: {error}"
        ) from None


def check_integers(ids: Tensor) -> None:
    """Raises TypeError unless the ids are integers."""
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"target ids must be integers, got {ids.dtype}.")


def check_vocabulary(ids: Tensor, vocab_size: int) -> None:
    """Raises ValueError if an id is negative or not below ``vocab_size``."""
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.numel():
        raise ValueError(
            f"target ids must lie in the vocabulary, 0 to {vocab_size - 1}, got "
            f"{sorted(set(outside.tolist()))}."
        )
