"""Generates an answer and keeps what the explanation can reuse."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding.generation_settings import GenerationSettings
from captum_dexar.decoding.generation_watch import GenerationWatch, watched_encoder
from captum_dexar.decoding.prompt_cache import new_cache, PromptCache, watched_positions
from captum_dexar.decoding.raw_logits import raw_target_logits
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.state import kept_state
from captum_dexar.model.target_logits import TargetLogits
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList


@dataclass(eq=False)
class GeneratedAnswer:
    """A generated answer and reusable by-products of its generation.

    Attributes:
        ids (Tensor): ``(prompts, steps)``, including the end-of-sequence token, and the
            padding after it in the shorter answers of a batch
        explained (StepAttributions or None): the attributions, if they were computed
            during generation
        cache (PromptCache or None): the KV cache on which the steps can be explained;
            None if the prompt has to be run again
        target_logits (TargetLogits or None): the model's own logits of these tokens,
            before any processor; NaN where they are not known
        settings (sequence of str): names of the settings of generation
    """

    ids: Tensor
    explained: StepAttributions | None = None
    cache: PromptCache | None = None
    target_logits: TargetLogits | None = None
    settings: Sequence[str] = ()


def generate(
    prompt: Prompt,
    gen_args: Mapping[str, Any] | None,
    online: OnlineAttribution | None = None,
) -> GeneratedAnswer:
    """Generates an answer and keeps what the explanation can reuse.

    Args:
        prompt (Prompt): one prompt, or a batch of them
        gen_args (Mapping or None): arguments of ``model.generate``; None for Captum's
            default, at most 25 tokens, greedily
        online (OnlineAttribution, optional): explains the steps during generation, if
            each token has its own forward pass. Default: None

    Raises:
        ValueError: nothing was generated, or several answers were requested.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    arguments["return_dict_in_generate"] = True
    generation = _WatchedGeneration(prompt, arguments, online)
    model: Any = prompt.model
    with torch.no_grad(), kept_state(model), generation.watching():
        made = model.generate(**prompt.given_inputs, **generation.arguments)
    # Other outputs may hold a large KV cache.
    logits, beams = getattr(made, "logits", None), getattr(made, "beam_indices", None)
    sequences = made if isinstance(made, Tensor) else getattr(made, "sequences", None)
    made_type = type(made).__name__
    del made
    if not isinstance(sequences, Tensor):
        raise TypeError(
            "model.generate must return token ids, or an output with sequences, got "
            f"{made_type}. A custom_generate in gen_args decides that."
        )
    if sequences.shape[0] != prompt.ids.shape[0]:
        raise ValueError(
            "gen_args must ask for one answer, got num_return_sequences="
            f"{sequences.shape[0] // prompt.ids.shape[0]}."
        )
    check_prompt(sequences, prompt)
    answer = sequences[:, prompt.length :]
    if answer.shape[1] == 0:
        raise ValueError(
            "The model generated no token, so there is nothing to explain. Check "
            "gen_args (max_new_tokens, stopping criteria), or pass a target."
        )
    return generation.result(answer, logits, beams)


def check_prompt(sequences: Tensor, prompt: Prompt) -> None:
    """Raises RuntimeError unless generated sequences begin with the prompt."""
    if not torch.equal(sequences[:, : prompt.length], prompt.ids):
        raise RuntimeError(
            "Generation did not start from the prompt, which the model's configuration "
            f"gives as {prompt.ids[0].tolist()}, but from "
            f"{sequences[0, : prompt.length].tolist()}. Pass decoder_input_ids."
        )


class _WatchedGeneration:
    """Hooks for one call of ``model.generate`` that collect what can be reused."""

    def __init__(
        self,
        prompt: Prompt,
        arguments: dict[str, Any],
        online: OnlineAttribution | None,
    ) -> None:
        self.prompt = prompt
        self.arguments = arguments
        self.settings = GenerationSettings(prompt.model, arguments)
        self.settings.check(prompt)
        self.explained: list[StepAttributions] = []
        self.num_waiting = 0
        self.watch: GenerationWatch | None = None
        self.positions: list[Tensor | None] = []
        self.encoders: list[Tensor] = []
        arguments |= self.settings.without_compiling()
        # Must be read before our own cache is added to the arguments.
        is_one_by_one = self.settings.is_one_by_one
        holds_every_key = self.settings.holds_every_key
        self.cache: Any = given_cache(prompt, self.settings, arguments)
        self.online = online if is_one_by_one and holds_every_key else None
        if is_one_by_one:
            self.watch = GenerationWatch(
                prompt.model,
                self._on_token,
                self.settings.is_chunked,
                0 if self.online is None else self.online.num_rivals,
            )
            add_stopping_criterion(arguments, self.watch)
        elif self.settings.raw_logits_fit(prompt):
            arguments["output_logits"] = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Installs the hooks."""
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
        if self.online is None or self.watch is None:
            return
        if self.watch.num_passes != 1:
            # Which of them is recorded under which token would be a guess.
            self._give_up_online()
            return
        self.num_waiting += 1
        if self.online.is_due(self.num_waiting):
            self._explain_waiting()

    def _explain_waiting(self) -> None:
        """Explains the tokens generated since the last call."""
        if self.online is None or self.watch is None or not self.num_waiting:
            return
        sequences = self.watch.sequences
        assert sequences is not None
        first = self.watch.target_logits.num_steps - self.num_waiting
        tokens = sequences[:, sequences.shape[1] - self.num_waiting :]
        self.num_waiting = 0
        try:
            target_logits = self.watch.target_logits.since(first)
            self.explained.append(self.online.explain(tokens, target_logits, first))
        except Inconsistent:
            self._give_up_online()

    def _give_up_online(self) -> None:
        """Leaves all steps to be explained after generation."""
        if self.online is not None:
            self.online.stop()
        self.online = None
        self.explained.clear()

    def result(
        self,
        answer: Tensor,
        logits: tuple[Tensor, ...] | None,
        beam_indices: Tensor | None,
    ) -> GeneratedAnswer:
        """The answer with its attributions, or with a KV cache for explaining it.

        Args:
            answer (Tensor): its ids, ``(prompts, steps)``
            logits (tuple of Tensor or None): as ``generate`` returns them
            beam_indices (Tensor or None): likewise
        """
        made = GeneratedAnswer(answer, settings=self.settings.names)
        num_steps = answer.shape[1]
        if logits is not None:
            made.target_logits = raw_target_logits(answer, logits, beam_indices)
        elif self.watch is not None and self._has_watched(answer):
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
            made.cache.drop_copies(beams, prompt.ids.shape[0])
        return made

    def _has_watched(self, answer: Tensor) -> bool:
        """Whether the watched tokens are those of the answer."""
        sequences = self.watch.sequences if self.watch is not None else None
        return sequences is not None and torch.equal(
            sequences[:, self.prompt.length :], answer.to(sequences.device)
        )


def given_cache(
    prompt: Prompt, settings: "GenerationSettings", arguments: dict[str, Any]
) -> Any:
    """Adds our own cache to ``arguments`` if steps can be replayed on it."""
    plan = prompt.adapter.reuse(prompt.inputs, prompt.config)
    if plan != "replay" or not settings.takes_a_cache:
        return None
    cache = new_cache(prompt.config, prompt.adapter, goes_back=True)
    arguments["past_key_values"] = cache
    return cache


def add_stopping_criterion(
    arguments: dict[str, Any], criterion: StoppingCriteria
) -> None:
    """Appends a criterion to the user's own in ``arguments``."""
    given = arguments.get("stopping_criteria") or []
    arguments["stopping_criteria"] = StoppingCriteriaList([*given, criterion])


def answer_lengths(
    answers: Tensor, model: Any, gen_args: Mapping[str, Any] | None
) -> list[int]:
    """Length of each answer in ``(prompts, steps)``, end-of-sequence token included."""
    if len(answers) == 1:
        return [answers.shape[1]]
    ends = GenerationSettings(model, gen_args or {})["eos_token_id"]
    ends = [] if ends is None else torch.as_tensor(ends).flatten().tolist()
    lengths = []
    for answer in answers.tolist():
        stop = [place for place, token in enumerate(answer) if token in ends]
        lengths.append(stop[0] + 1 if stop else len(answer))
    return lengths
