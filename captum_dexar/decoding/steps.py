"""The decoding steps of an answer, as forward passes that any method can run.

Step ``t`` predicts the token ``v_t`` from the last position of its prefix: the prompt
and the tokens before ``v_t``. In a causal model (or one that is bidirectional over the
prompt only) no position depends on later ones. So all steps are query positions of a
single pass, and their prefix may come from a KV cache.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.prompt_cache import (
    keeping_cache,
    new_cache,
    PromptCache,
    watched_positions,
)
from captum_dexar.inputs import logits_of, Prompt
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor
from transformers import DynamicCache

# Suffixes of configuration fields that hold the ids of non-text tokens.
SPECIAL_TOKENS = ("_token_id", "_token_index")


class DecodingSteps:
    """The steps of a known answer to a prompt.

    Args:
        prompt (Prompt): the prompt, or a batch of them
        answer_ids (Tensor): the answers' tokens, ``(batch, tokens)``
        first_step (int, optional): the first explained step; earlier tokens of the
            answer only belong to its prefix. Default: 0

    Attributes:
        target_ids (Tensor): the explained tokens, ``(batch, num_steps)``
        num_steps (int): number of explained steps
    """

    def __init__(
        self,
        prompt: Prompt,
        answer_ids: Tensor,
        first_step: int = 0,
    ) -> None:
        self.prompt = prompt
        self.answer_ids = answer_ids.to(prompt.ids.device)
        self.first_step = first_step
        self.target_ids = self.answer_ids[:, first_step:]
        self.num_steps = self.target_ids.shape[1]

    @property
    def _num_before(self) -> int:
        """Positions before the answer's."""
        prompt = self.prompt
        ahead = prompt.adapter.num_keys_ahead(prompt.inputs, prompt.config)
        return int(prompt.length + ahead)

    @property
    def contrast_ids(self) -> Tensor | None:
        """The contrast token of each step, ``(1, num_steps)``, or None."""
        return self.prompt.contrast_ids(self.first_step, self.num_steps)

    @property
    def contrasts(self) -> Tensor | None:
        """The same as the only one of each step, ``(1, 1, num_steps)``, or None."""
        contrast_ids = self.contrast_ids
        return None if contrast_ids is None else contrast_ids[None]

    def full_pass(self, encoder_outputs: Any = None) -> ModelPass:
        """Prompt and answer in one pass without a cache.

        Raises:
            ValueError: the model would take a token of the answer for the image.
        """
        num_tokens = self.answer_ids.shape[1]
        self._check_whole(num_tokens - 1)
        inputs = {**self._prefix(num_tokens - 1), "use_cache": False}
        if encoder_outputs is not None:
            for name in (self.prompt.adapter.pixel_input, "input_ids"):
                inputs.pop(name, None)
            inputs["encoder_outputs"] = encoder_outputs
        first = self._num_before - 1 + self.first_step
        steps = slice(self.first_step, num_tokens)
        return replace(self._pass(inputs, steps, first), new_cache=self._keeping_cache)

    def cached_pass(
        self,
        cache: PromptCache | DynamicCache | None = None,
        max_tokens: int | None = None,
    ) -> ModelPass:
        """Only the positions that predict the answer, on a cache of their prefix.

        Args:
            cache (PromptCache or DynamicCache, optional): the prefix; a DynamicCache
                holds all positions of the prompt but the last. The pass appends to it.
                Default: None, the prompt is run once to fill a new one
            max_tokens (int, optional): maximum number of positions. Default: None, all
                remaining ones
        """
        known = self._prompt_cache(cache)
        start, stop = known.first_step, self.answer_ids.shape[1]
        if max_tokens is not None:
            stop = min(start + max_tokens, stop)
        first, last = self.prompt.length - 1 + start, self.prompt.length - 1 + stop
        whole = self._prefix(stop - 1)
        inputs: dict[str, Any] = {
            name: whole[name]
            for name in ("attention_mask", *self.prompt.adapter.inputs_on_cache)
            if name in whole
        }
        inputs["input_ids"] = whole["input_ids"][:, first:last]
        inputs["past_key_values"], inputs["use_cache"] = known.cache, True
        if "position_ids" in whole:
            inputs["position_ids"] = whole["position_ids"][..., first:last]
        elif known.last_position is not None:
            following = torch.arange(start, stop, device=known.last_position.device)
            inputs["position_ids"] = known.last_position + following
        return self._pass(inputs, slice(start, stop), 0)

    def cheapest_pass(
        self, cache: PromptCache | DynamicCache | None = None
    ) -> ModelPass:
        """All steps: on a cache if that is exact, else in a full pass."""
        (only,) = self.passes(cache)
        return only

    def passes(
        self,
        cache: PromptCache | DynamicCache | None = None,
        max_tokens: int | None = None,
    ) -> Iterator[ModelPass]:
        """As few passes as possible; each must be run before the next is requested.

        Args:
            cache, max_tokens: as in :meth:`cached_pass`
        """
        prompt = self.prompt
        plan = prompt.adapter.reuse(prompt.inputs, prompt.config)
        if prompt.is_encoder_decoder:
            known = cache if isinstance(cache, PromptCache) else PromptCache()
            is_kept = plan == "encoder"
            yield self.full_pass(known.encoder_outputs if is_kept else None)
            return
        is_replayed = plan == "replay"
        if cache is None and (
            not is_replayed or self.first_step or self._fits_in_one(max_tokens)
        ):
            yield self.full_pass()
            return
        known = self._prompt_cache(cache)
        while known.first_step < self.answer_ids.shape[1]:
            explained = self.cached_pass(known, max_tokens)
            known.first_step += explained.query_positions.shape[0]
            yield explained

    def prefixes(self) -> Iterator[dict[str, Any]]:
        """The model's inputs for each single step, one token longer each time."""
        self._check_whole(self.answer_ids.shape[1] - 1)
        for step in range(self.first_step, self.answer_ids.shape[1]):
            inputs, cache = self._prefix(step), self._keeping_cache()
            yield inputs if cache is None else {**inputs, "past_key_values": cache}

    def prefilled(self) -> PromptCache:
        """A new cache of the prompt without its last token, by running the model.

        A bidirectional prompt is run as a whole, and its last token is then dropped
        from the cache.
        """
        prompt, adapter = self.prompt, self.prompt.adapter
        is_whole = adapter.prompt_is_bidirectional
        cache = new_cache(prompt.config, adapter, goes_back=is_whole)
        if prompt.length == 1:
            return PromptCache(cache)
        per_token = {"input_ids", "position_ids", *adapter.sequence_inputs}
        inputs = {
            key: value[:, :-1] if key in per_token and not is_whole else value
            for key, value in prompt.inputs.items()
        }
        with (
            torch.no_grad(),
            kept_state(prompt.model),
            watched_positions(prompt.model) as positions,
        ):
            kept = logits_of(prompt.model, 1)
            prompt.model(**inputs, past_key_values=cache, use_cache=True, **kept)
        (last,) = positions
        if is_whole:
            adapter.crop(cache, 1, prompt.config)
        elif last is not None:
            last = last + 1
        return PromptCache(cache, last)

    def alone(self, step: int) -> TargetLogits:
        """The logits of a step, counted from the first explained one, from a pass over
        its prefix and no more."""
        step += self.first_step
        inputs = {**self._prefix(step), "use_cache": False}
        only = slice(step, step + 1)
        alone = self._pass(inputs, only, self._num_before - 1 + step)
        alone = replace(alone, new_cache=self._keeping_cache)
        with torch.no_grad():
            return TargetLogits.of(alone.logits(), alone.target_ids)

    def _check_whole(self, num_answer_tokens: int) -> None:
        """Raises ValueError for an answer that can't be in a pass with its image."""
        prompt = self.prompt
        marks = getattr(prompt.config, "image_token_id", None)
        if prompt.is_encoder_decoder or not isinstance(marks, int):
            return
        if prompt.adapter.cross_attention_of(prompt.config) is not None:
            return
        is_mark = self.answer_ids[:, :num_answer_tokens] == marks
        if bool(is_mark.any()) and bool((prompt.ids == marks).any()):
            place = int(is_mark.any(0).int().argmax())
            raise ValueError(
                f"Token {place} of the answer is the image's placeholder (id {marks}). "
                "In a pass over prompt and answer, which this method needs, the model "
                "would put features of the image there. Leave that token out of the "
                "answer, or use LayerDexAR with its closed form, which explains most "
                "families on a cache of the prompt."
            )

    def _fits_in_one(self, max_tokens: int | None) -> bool:
        """Whether prompt and answer can share one pass, which is cheaper than two."""
        fed = self.answer_ids[:, :-1]
        # The model would replace an image token in the answer by image features.
        special = [
            value
            for name, value in vars(self.prompt.config).items()
            if name.endswith(SPECIAL_TOKENS) and isinstance(value, int)
        ]
        is_text = not torch.isin(fed, torch.tensor(special, device=fed.device)).any()
        return self.num_steps <= (max_tokens or self.num_steps) and bool(is_text)

    def _pass(self, inputs: Mapping[str, Any], steps: slice, first: int) -> ModelPass:
        """A pass in which position ``first`` predicts the first of these steps."""
        device = self.prompt.ids.device
        positions = torch.arange(steps.stop - steps.start, device=device)
        explained = slice(steps.start - self.first_step, steps.stop - self.first_step)
        return ModelPass(
            model=self.prompt.model,
            inputs=inputs,
            query_positions=positions + first,
            target_ids=self.target_ids[:, explained],
            image_keys=self.prompt.image_keys,
            num_keys=self._num_before + steps.stop - 1 + self.prompt.encoder_keys,
            cross_attention=self.prompt.adapter.cross_attention_of(self.prompt.config),
            first_step=explained.start,
            encoder_keys=self.prompt.encoder_keys,
        )

    def _prefix(self, num_answer_tokens: int) -> dict[str, Any]:
        """The prompt's inputs, extended by the first tokens of the answer."""
        prompt, answer = self.prompt, self.answer_ids[:, :num_answer_tokens]
        grown = dict(prompt.inputs)
        grown[prompt.answer_input] = torch.cat([prompt.ids, answer], dim=1)
        if prompt.is_encoder_decoder:
            return grown
        for key, fill in prompt.adapter.sequence_inputs.items():
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

    def _keeping_cache(self) -> DynamicCache | None:
        if self.prompt.is_encoder_decoder:
            return None
        return keeping_cache(self.prompt.config, self.prompt.length)

    def _prompt_cache(self, cache: PromptCache | DynamicCache | None) -> PromptCache:
        if cache is None:
            return self.prefilled()
        return cache if isinstance(cache, PromptCache) else PromptCache(cache)
