"""Letting a model answer, and keeping what explaining can reuse."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding.generation_watch import GenerationWatch, watched_encoder
from captum_dexar.decoding.prompt_cache import new_cache, PromptCache, watched_positions
from captum_dexar.decoding.step_attributions import (
    NotRecorded,
    OnlineAttribution,
    StepAttributions,
)
from captum_dexar.inputs import Prompt
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import nn, Tensor
from transformers import StoppingCriteria, StoppingCriteriaList


@dataclass(eq=False)
class GeneratedAnswer:
    """An answer and what generating it leaves behind.

    Attributes:
        ids (Tensor): ``(prompts, steps)``, end-of-sequence token included and what
            follows it in a shorter answer of several
        explained (StepAttributions or None): its attributions, where it was explained
            by the passes that generated it
        cache (PromptCache or None): what the steps can be explained on; None if the
            prompt has to be run again
        target_logits (TargetLogits or None): the model's logits of these tokens
    """

    ids: Tensor
    explained: StepAttributions | None = None
    cache: PromptCache | None = None
    target_logits: TargetLogits | None = None


def generate(
    prompt: Prompt,
    gen_args: Mapping[str, Any] | None,
    online: OnlineAttribution | None = None,
) -> GeneratedAnswer:
    """Lets the model answer, and keeps what explaining can reuse.

    Args:
        prompt (Prompt): one prompt, or a batch of them
        gen_args (Mapping or None): arguments of ``model.generate``; None for Captum's
            default, at most 25 tokens, greedily
        online (OnlineAttribution, optional): explains the steps by the passes that
            predict them, where generating takes one pass per token. Default: None, the
            steps are to be explained afterwards

    Returns:
        GeneratedAnswer

    Raises:
        ValueError: nothing was generated, or several answers were asked for.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    arguments["return_dict_in_generate"] = True
    generation = _WatchedGeneration(prompt, arguments, online)
    model: Any = prompt.model
    with torch.no_grad(), kept_state(model), generation.watching():
        # The other outputs hold the cache, which is large.
        sequences = model.generate(
            **prompt.given_inputs, **generation.arguments
        ).sequences
    if sequences.shape[0] != prompt.ids.shape[0]:
        raise ValueError(
            "gen_args must ask for one answer, got num_return_sequences="
            f"{sequences.shape[0] // prompt.ids.shape[0]}."
        )
    if not torch.equal(sequences[:, : prompt.length], prompt.ids):
        raise RuntimeError(
            "Generating did not start from the prompt, as the model's configuration "
            f"has it, but from {sequences[0, : prompt.length].tolist()} rather "
            f"than {prompt.ids[0].tolist()}. Pass decoder_input_ids with the input."
        )
    answer = sequences[:, prompt.length :]
    if answer.shape[1] == 0:
        raise ValueError(
            "The model generated no token, so there is nothing to explain. Check "
            "gen_args (max_new_tokens, stopping criteria), or give a target."
        )
    return generation.result(answer)


class _WatchedGeneration:
    """A call of ``model.generate``, watched for what explaining can reuse."""

    def __init__(
        self,
        prompt: Prompt,
        arguments: dict[str, Any],
        online: OnlineAttribution | None,
    ) -> None:
        self.prompt = prompt
        self.arguments = arguments
        self.settings = GenerationSettings(prompt.model, arguments)
        self.explained: list[StepAttributions] = []
        self.num_waiting = 0
        self.sequences: Tensor | None = None
        self.watch: GenerationWatch | None = None
        self.positions: list[Tensor | None] = []
        self.encoders: list[Tensor] = []
        # Asked before the cache of ours is among the arguments.
        is_one_by_one = self.settings.is_one_by_one
        self.cache: Any = given_cache(prompt, self.settings, arguments)
        self.online = online if is_one_by_one else None
        if is_one_by_one:
            self.watch = GenerationWatch(prompt.model, self._on_token)
            add_stopping_criterion(arguments, self.watch)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it generating is watched."""
        model = self.prompt.model
        with ExitStack() as stack:
            self.positions = stack.enter_context(watched_positions(model))
            self.encoders = stack.enter_context(watched_encoder(model))
            if self.watch is not None:
                stack.enter_context(self.watch.watching())
            if self.online is not None:
                stack.enter_context(self.online.watching())
            yield
            self._explain_waiting()

    def _on_token(self, sequences: Tensor, step: int) -> None:
        if self.online is not None:
            self.sequences = sequences
            self.num_waiting += 1
            if self.online.is_due(self.num_waiting):
                self._explain_waiting()

    def _explain_waiting(self) -> None:
        """Explains the tokens that were generated since the last time."""
        if self.online is None or self.watch is None or self.sequences is None:
            return
        first = self.watch.target_logits.num_steps - self.num_waiting
        tokens = self.sequences[:, self.sequences.shape[1] - self.num_waiting :]
        self.num_waiting, self.sequences = 0, None
        try:
            target_logits = self.watch.target_logits.since(first)
            self.explained.append(self.online.explain(tokens, target_logits, first))
        except NotRecorded:
            # A layer of an unknown kind: everything is explained afterwards.
            self.online = None
            self.explained.clear()

    def result(self, answer: Tensor) -> GeneratedAnswer:
        """The answer with its attributions, or with a cache to explain it on."""
        made = GeneratedAnswer(answer)
        num_steps = answer.shape[1]
        if self.watch is not None and self.watch.target_logits.num_steps == num_steps:
            made.target_logits = self.watch.target_logits.since(0)
            if self.online is not None:
                self.cache = self.arguments["past_key_values"] = None
                made.explained = StepAttributions.joined(self.explained)
                return made
        beams, prompt = self.settings.num_beams, self.prompt
        if self.encoders:
            made.cache = PromptCache(encoder_states=self.encoders[0])
        elif self.cache is not None:
            length = self.cache.get_seq_length()
            if beams == 1 and length != prompt.length + num_steps - 1:
                return made
            (last_position,) = self.positions
            made.cache = PromptCache(self.cache, last_position)
            surplus = length - (prompt.length - 1)
            prompt.adapter.crop(self.cache, surplus, prompt.config)
        if made.cache is not None:
            made.cache.drop_copies(beams)
        return made


def given_cache(
    prompt: Prompt, settings: "GenerationSettings", arguments: dict[str, Any]
) -> Any:
    """A cache of ours that generating fills, where steps can be replayed on it.

    Args:
        prompt (Prompt): the prompt
        settings (GenerationSettings): what generating was asked for
        arguments (dict): arguments of ``model.generate``, which are given the cache

    Returns:
        The cache, or None
    """
    plan = prompt.adapter.reuse(prompt.inputs, prompt.config)
    if plan != "replay" or not settings.takes_a_cache:
        return None
    cache = new_cache(prompt.config, prompt.adapter, goes_back=True)
    arguments["past_key_values"] = cache
    return cache


def add_stopping_criterion(
    arguments: dict[str, Any], criterion: StoppingCriteria
) -> None:
    """Adds a criterion behind the user's own in arguments of ``model.generate``."""
    given = arguments.get("stopping_criteria") or []
    arguments["stopping_criteria"] = StoppingCriteriaList([*given, criterion])


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
    def takes_a_cache(self) -> bool:
        """Whether a cache of ours can be given, and holds the prompt afterwards."""
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

    @property
    def is_one_by_one(self) -> bool:
        """Whether every token comes out of a pass of its own, on all keys so far."""
        without_cache = self["use_cache"] is False
        return self.num_beams == 1 and (
            self.takes_a_cache
            or (without_cache and self.arguments.get("past_key_values") is None)
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
    if len(answers) == 1:
        return [answers.shape[1]]
    ends = GenerationSettings(model, gen_args or {})["eos_token_id"]
    ends = [] if ends is None else torch.as_tensor(ends).flatten().tolist()
    lengths = []
    for answer in answers.tolist():
        stop = [place for place, token in enumerate(answer) if token in ends]
        lengths.append(stop[0] + 1 if stop else len(answer))
    return lengths
