"""Letting a model answer, and keeping what explaining can use again."""

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.attention_gradients import TargetLogits
from captum_dexar.decoding import (
    complete_inputs,
    new_cache,
    PromptCache,
    watched_positions,
)
from captum_dexar.decoding.generation_watch import GenerationWatch, watched_encoder
from captum_dexar.families import adapter_for_config, FamilyAdapter
from captum_dexar.model_state import kept_state
from captum_dexar.step_attributions import LiveAttribution, StepAttributions
from torch import nn, Tensor
from transformers import StoppingCriteriaList


@dataclass(eq=False)
class GeneratedAnswer:
    """An answer and what is left of generating it.

    Attributes:
        ids (Tensor): ``(prompts, steps)``, end-of-sequence token included and what
            follows it in a shorter answer of several
        cache (PromptCache or None): what the steps can be explained on; None if the
            prompt has to be run again
        said (TargetLogits or None): the model's logits of these tokens
        first (StepAttributions or None): attributions of the first step, where it was
            explained in the pass over the prompt
    """

    ids: Tensor
    cache: PromptCache | None = None
    said: TargetLogits | None = None
    first: StepAttributions | None = None


def prompt_ids(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """What the sequences that a model generates begin with, ``(batch, tokens)``: the
    prompt, or an encoder-decoder's first token."""
    config: Any = model.config
    adapter = adapter_for_config(config)
    is_encoder_decoder = adapter.is_encoder_decoder(config)
    complete = complete_inputs(adapter, inputs, config)
    ids: Tensor = complete["decoder_input_ids" if is_encoder_decoder else "input_ids"]
    return ids


def generate(
    model: nn.Module,
    inputs: Mapping[str, Any],
    gen_args: Mapping[str, Any] | None,
    live: LiveAttribution | None = None,
) -> GeneratedAnswer:
    """Lets the model answer, and keeps what explaining can go on from.

    Args:
        model (nn.Module): the vision-language model
        inputs (Mapping): its inputs for one prompt, or several padded on the left
        gen_args (Mapping or None): arguments of ``model.generate``; None for Captum's
            default, at most 25 tokens, greedily
        live (LiveAttribution, optional): explains a step in the pass that predicts it.
            Of families whose prompt's last token can't be run again exactly, the first
            step is explained by it; without it their prompt has to be run again.
            Default: None

    Returns:
        GeneratedAnswer

    Raises:
        ValueError: nothing was generated, or several answers were asked for.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    arguments["return_dict_in_generate"] = True
    prompt = prompt_ids(model, inputs)
    reusing = _Reusing(model, inputs, arguments, live)
    generating: Any = model
    with torch.no_grad(), kept_state(model), reusing.watching():
        output = generating.generate(**inputs, **reusing.arguments)
    if output.sequences.shape[0] != prompt.shape[0]:
        raise ValueError(
            "gen_args must ask for one answer, got num_return_sequences="
            f"{output.sequences.shape[0] // prompt.shape[0]}."
        )
    prompt_length = prompt.shape[1]
    if not torch.equal(output.sequences[:, :prompt_length], prompt):
        raise RuntimeError(
            "Generating did not start from the prompt, as the model's configuration "
            f"has it, but from {output.sequences[0, :prompt_length].tolist()} rather "
            f"than {prompt[0].tolist()}. Pass decoder_input_ids with the input."
        )
    answer = output.sequences[:, prompt_length:]
    if answer.shape[1] == 0:
        raise ValueError(
            "The model generated no token, so there is nothing to explain. Check "
            "gen_args (max_new_tokens, stopping criteria), or give a target."
        )
    return reusing.what_is_left(answer, prompt_length)


class _Reusing:
    """What generating is asked for, and watched for, so that it can be gone on from."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        arguments: dict[str, Any],
        live: LiveAttribution | None,
    ) -> None:
        self.model = model
        self.config: Any = model.config
        self.adapter: FamilyAdapter = adapter_for_config(self.config)
        self.arguments = arguments
        self.settings = GenerationSettings(model, arguments)
        self.live = live
        self.first: StepAttributions | None = None
        self.watch: GenerationWatch | None = None
        self.cache: Any = None
        self.recurrent: dict[int, Any] = {}
        self.positions: list[Tensor | None] = []
        self.encoders: list[Tensor] = []
        self.stack = ExitStack()
        self.live_stack = ExitStack()
        self.plan: str | None = None
        if not self.settings.is_plain:
            return
        complete = complete_inputs(self.adapter, inputs, self.config)
        self.plan = self.adapter.reuse(complete, self.config)
        is_greedy_or_sampled = self.settings.num_beams == 1
        if self.plan == "two_phase" and (live is None or not is_greedy_or_sampled):
            self.plan = None
        if self.plan in ("replay", "two_phase"):
            self.cache = new_cache(self.config, self.adapter, self.plan == "replay")
            arguments["past_key_values"] = self.cache
        if is_greedy_or_sampled:
            given = arguments.get("stopping_criteria") or []
            self.watch = GenerationWatch(model, self._know)
            arguments["stopping_criteria"] = StoppingCriteriaList([*given, self.watch])

    def watching(self) -> ExitStack:
        """Within it generating is watched."""
        self.positions = self.stack.enter_context(watched_positions(self.model))
        self.encoders = self.stack.enter_context(watched_encoder(self.model))
        if self.watch is not None:
            self.stack.enter_context(self.watch.watching())
        self.stack.enter_context(self.live_stack)
        if self.plan == "two_phase" and self.live is not None:
            self.live_stack.enter_context(self.live.watching())
        return self.stack

    def _know(self, token: Tensor, said: TargetLogits, step: int) -> None:
        """Explains the first step while its pass is still at hand, and keeps what the
        cache could not be taken back to."""
        if step > 0 or self.plan != "two_phase" or self.live is None:
            return
        self.first = self.live.explain(token, said, step)
        self.live_stack.close()
        for index, layer in enumerate(self.cache.layers):
            if not layer.is_croppable:
                self.recurrent[index] = copy.deepcopy(layer)

    def what_is_left(self, answer: Tensor, prompt_length: int) -> GeneratedAnswer:
        """The answer with a cache that ends before the first step to be explained."""
        num_steps = answer.shape[1]
        said = None
        if self.watch is not None and len(self.watch.said) == num_steps:
            said = TargetLogits.joined(self.watch.said)
        left = GeneratedAnswer(answer, said=said)
        beams = self.settings.num_beams
        if self.plan == "encoder":
            if self.encoders:
                left.cache = PromptCache(encoder_states=self.encoders[0])
                left.cache.one_of_each(beams)
            return left
        if self.plan is None:
            return left
        length = self.cache.get_seq_length()
        if beams == 1 and length != prompt_length + num_steps - 1:
            return left
        (last_position,) = self.positions
        left.cache = PromptCache(self.cache, last_position)
        if self.plan == "two_phase":
            left.first, left.cache.first_step = self.first, 1
            for index, layer in enumerate(self.cache.layers):
                if index in self.recurrent:
                    self.cache.layers[index] = self.recurrent[index]
                elif num_steps > 1:
                    layer.crop(-(num_steps - 1))
            return left
        self.adapter.crop(self.cache, length - (prompt_length - 1), self.config)
        left.cache.one_of_each(beams)
        return left


class GenerationSettings:
    """What generating was asked for, by its arguments or by the model's defaults."""

    def __init__(self, model: nn.Module, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments
        self.defaults: Any = model.generation_config

    def __getitem__(self, name: str) -> Any:
        custom = self.arguments.get("generation_config")
        for source in (
            self.arguments,
            vars(custom) if custom else {},
            vars(self.defaults),
        ):
            if source.get(name) is not None:
                return source[name]
        return None

    @property
    def num_beams(self) -> int:
        """Beams of a beam search; 1 for none."""
        return int(self["num_beams"] or 1)

    @property
    def is_plain(self) -> bool:
        """Whether every pass after the prompt's is over one position of each beam, on a
        cache that is ours to give."""
        return (
            self.arguments.get("past_key_values") is None
            and self["use_cache"] is not False
            and (self["num_return_sequences"] or 1) == 1
            and self["cache_implementation"] is None
            and self["prefill_chunk_size"] is None
            and self["prompt_lookup_num_tokens"] is None
            and self.arguments.get("assistant_model") is None
            and self.arguments.get("custom_generate") is None
        )


def answer_lengths(
    answers: Tensor, model: nn.Module, gen_args: Mapping[str, Any] | None
) -> list[int]:
    """Tokens of each of several answers, its end-of-sequence token included.

    Args:
        answers (Tensor): ``(prompts, steps)``, as :func:`generate` gives them
        model (nn.Module): the model that generated them
        gen_args (Mapping or None): as it was told to
    """
    ends = GenerationSettings(model, gen_args or {})["eos_token_id"]
    ends = [] if ends is None else torch.as_tensor(ends).flatten().tolist()
    lengths = []
    for answer in answers.tolist():
        stop = [place for place, token in enumerate(answer) if token in ends]
        lengths.append(stop[0] + 1 if stop else len(answer))
    return lengths
