"""The decoding steps of an answer, as passes that any method can run.

A step ``t`` predicts the token ``v_t`` from the last position of its prefix: the prompt
and the tokens before ``v_t``. In a causal model (and in one whose mask is bidirectional
over the prompt only) no position depends on later ones, so that all steps are rows of a
single pass, and the rows' prefix may come from a cache.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.prompt_cache import new_cache, PromptCache, watched_positions
from captum_dexar.families import adapter_for_config, FamilyAdapter
from captum_dexar.inputs.model_inputs import complete_inputs, logits_of
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor
from transformers import DynamicCache

# Ends of the names of a configuration's tokens that mean more than their text.
SPECIAL_TOKENS = ("_token_id", "_token_index")


class DecodingSteps:
    """The steps of a known answer to a prompt.

    Args:
        model (nn.Module): the vision-language model
        inputs (Mapping): its inputs for the prompt; batches are padded on the left
        target_ids (Tensor): the answers' tokens, ``(batch, steps)``
        target_logits (TargetLogits, optional): the model's logits of these tokens, where it
            generated them. Default: None, they are computed
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        target_ids: Tensor,
        target_logits: TargetLogits | None = None,
    ) -> None:
        self.model = model
        self.config: Any = model.config
        self.adapter: FamilyAdapter = adapter_for_config(self.config)
        self.inputs = complete_inputs(self.adapter, inputs, self.config)
        self.image_keys = self.adapter.image_keys(self.inputs, self.config)
        self.is_encoder_decoder = self.adapter.is_encoder_decoder(self.config)
        self.answer_input = (
            "decoder_input_ids" if self.is_encoder_decoder else "input_ids"
        )
        self.prompt_ids: Tensor = self.inputs[self.answer_input]
        self.target_ids = target_ids.to(self.prompt_ids.device)
        self.prompt_length = self.prompt_ids.shape[1]
        self.num_steps = self.target_ids.shape[1]
        self.target_logits = target_logits

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

    def full_pass(self, encoder_outputs: Any = None) -> ModelPass:
        """Prompt and answer in one pass without a cache.

        Args:
            encoder_outputs (BaseModelOutput, optional): an encoder's output for the
                prompt. Default: computed
        """
        inputs = {**self._prefix(self.num_steps - 1), "use_cache": False}
        if encoder_outputs is not None:
            for name in (self.adapter.pixel_input, "input_ids"):
                inputs.pop(name, None)
            inputs["encoder_outputs"] = encoder_outputs
        return self._pass(inputs, slice(0, self.num_steps), self.prompt_length - 1)

    def cached_pass(
        self,
        cache: PromptCache | DynamicCache | None = None,
        max_tokens: int | None = None,
    ) -> ModelPass:
        """Only the rows that predict the answer, on a cache of what is before them.

        Args:
            cache (PromptCache or DynamicCache, optional): what is before the rows; a
                bare cache holds all positions of the prompt but the last. It is filled
                further by running the pass. Default: the prompt is run once to make it
            max_tokens (int, optional): at most so many rows. Default: all that are left
        """
        known = self._prompt_cache(cache)
        start = known.first_step
        stop = min(start + (max_tokens or self.num_steps), self.num_steps)
        first, last = self.prompt_length - 1 + start, self.prompt_length - 1 + stop
        whole = self._prefix(stop - 1)
        inputs: dict[str, Any] = {
            name: whole[name]
            for name in ("attention_mask", *self.adapter.inputs_on_cache)
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
        """All steps: on a cache where that is exact, else in a full pass."""
        (only,) = self.passes(cache)
        return only

    def passes(
        self,
        cache: PromptCache | DynamicCache | None = None,
        max_tokens: int | None = None,
    ) -> Iterator[ModelPass]:
        """The answer in as few passes as it takes, each to be run before the next.

        Args:
            cache (PromptCache or DynamicCache, optional): as in :meth:`cached_pass`
            max_tokens (int, optional): at most so many rows of a cached pass. Default:
                all
        """
        if self.is_encoder_decoder:
            known = cache if isinstance(cache, PromptCache) else PromptCache()
            yield self.full_pass(known.encoder_outputs)
            return
        is_replayed = self.adapter.reuse(self.inputs, self.config) == "replay"
        if cache is None and (not is_replayed or self._fits_in_one(max_tokens)):
            yield self.full_pass()
            return
        known = self._prompt_cache(cache)
        while known.first_step < self.num_steps:
            explained = self.cached_pass(known, max_tokens)
            known.first_step += explained.query_positions.shape[0]
            yield explained

    def prefixes(self) -> Iterator[dict[str, Any]]:
        """The model's inputs of every step by itself, growing by a token a step."""
        for step in range(self.num_steps):
            yield self._prefix(step)

    def _fits_in_one(self, max_tokens: int | None) -> bool:
        """Whether prompt and answer can be run together, which is cheaper than one
        after the other."""
        fed = self.target_ids[:, :-1]
        # Such as an image's: a model would take it for a place of the prompt's image.
        special = [
            value
            for name, value in vars(self.config).items()
            if name.endswith(SPECIAL_TOKENS) and isinstance(value, int)
        ]
        is_text = not torch.isin(fed, torch.tensor(special, device=fed.device)).any()
        return self.num_steps <= (max_tokens or self.num_steps) and bool(is_text)

    def _pass(self, inputs: Mapping[str, Any], steps: slice, first: int) -> ModelPass:
        """The pass whose position ``first`` predicts the first of the steps."""
        rows = torch.arange(steps.stop - steps.start, device=self.prompt_ids.device)
        return ModelPass(
            model=self.model,
            inputs=inputs,
            query_positions=rows + first,
            target_ids=self.target_ids[:, steps],
            image_keys=self.image_keys,
            num_keys=self.prompt_length + steps.stop - 1,
            cross_attention=self.adapter.cross_attention,
            target_logits=(
                None
                if self.target_logits is None
                else self.target_logits.of_steps(steps)
            ),
            first_step=steps.start,
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

    def _prompt_cache(self, cache: PromptCache | DynamicCache | None) -> PromptCache:
        if cache is None:
            return self._prefilled()
        return cache if isinstance(cache, PromptCache) else PromptCache(cache)

    def _prefilled(self) -> PromptCache:
        """Runs the prompt without its last token; or the whole of it, whose last token
        is then dropped again, where the others attend to it."""
        is_whole = self.adapter.prompt_is_bidirectional
        cache = new_cache(self.config, self.adapter, goes_back=is_whole)
        if self.prompt_length == 1:
            return PromptCache(cache)
        per_token = {"input_ids", "position_ids", *self.adapter.sequence_inputs}
        inputs = {
            key: value[:, :-1] if key in per_token and not is_whole else value
            for key, value in self.inputs.items()
        }
        with (
            torch.no_grad(),
            kept_state(self.model),
            watched_positions(self.model) as positions,
        ):
            kept = logits_of(self.model, 1)
            self.model(**inputs, past_key_values=cache, use_cache=True, **kept)
        (last,) = positions
        if is_whole:
            self.adapter.crop(cache, 1, self.config)
        elif last is not None:
            last = last + 1
        return PromptCache(cache, last)
