"""What the arguments of ``generate`` and the model's defaults ask for."""

from collections.abc import Mapping
from typing import Any

import torch
from captum_dexar.compatibility import generates_from_pixels
from captum_dexar.inputs import Prompt
from captum_dexar.model.memory import free_memory, PART_OF_FREE
from torch import nn, Tensor
from transformers import GenerationConfig

# Settings by which several tokens or answers are considered at once.
SEVERAL_AT_ONCE = (
    "num_beams",
    "num_return_sequences",
    "prompt_lookup_num_tokens",
    "assistant_model",
    "assistant_early_exit",
    "use_mtp",
    "speculation_type",
    "custom_generate",
    "penalty_alpha",
    "dola_layers",
    "constraints",
    "force_words_ids",
)
# Settings that act on each prompt of a batch by itself, however it is padded.
ACT_ON_EACH_PROMPT = {
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "eos_token_id",
    "generation_config",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_new_tokens",
    "min_new_tokens",
    "min_p",
    "num_beams",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "sequence_bias",
    "suppress_tokens",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
    "use_cache",
    "_from_model_config",
    "transformers_version",
}


class GenerationSettings:
    """Generation settings from the arguments or the model's defaults.

    Args:
        model (nn.Module): the model that generates
        arguments (Mapping): arguments of ``generate``

    Raises:
        TypeError: ``generation_config`` is no GenerationConfig.
    """

    def __init__(self, model: nn.Module, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments
        custom = self.arguments.get("generation_config")
        if custom is not None and not isinstance(custom, GenerationConfig):
            raise TypeError(
                "gen_args: generation_config must be a transformers.GenerationConfig, "
                f"got {type(custom).__name__}."
            )
        self.defaults: Any = model.generation_config

    def check(self, prompt: Prompt) -> None:
        """Raises unless ``generate`` can take the arguments for this prompt.

        Raises:
            ValueError: an argument is part of the input, several answers are asked for,
                or generation happens elsewhere.
        """
        own = {"inputs", "inputs_embeds", "position_ids", *prompt.inputs}
        of_input = sorted(own & set(self.arguments))
        if of_input:
            raise ValueError(
                f"gen_args must not hold {', '.join(of_input)}, which belong to the "
                "input. Pass them in inp."
            )
        if self["cache_implementation"] == "paged":
            raise ValueError(
                "cache_implementation='paged' generates in a scheduler of its own, "
                "whose passes can't be explained. Leave it out."
            )
        answers = self["num_return_sequences"]
        if answers is not None and answers > 1:
            raise ValueError(
                f"gen_args must ask for one answer, got num_return_sequences={answers}."
            )
        several = self.num_beams > 1 and generates_from_pixels(prompt.model)
        if several and _has_rows_of_pixels(prompt):
            raise ValueError(
                f"With beams, generate() of {type(prompt.model).__name__} repeats rows "
                "of pixels one by one in the installed transformers, so that the model "
                "sees another image. Leave num_beams out, or run "
                'pip install -U "transformers>=5.21"'
            )

    def without_compiling(self) -> dict[str, Any]:
        """Arguments by which ``generate`` compiles no pass, as it may on caches of
        fixed size: compiled passes can't be watched."""
        if self.holds_every_key or self["disable_compile"] is not None:
            return {}
        return {"disable_compile": True}

    def __getitem__(self, name: str) -> Any:
        for source in (self._given(), vars(self.defaults)):
            if source.get(name) is not None:
                return source[name]
        return None

    def _given(self) -> dict[str, Any]:
        """The arguments, with those of a ``generation_config`` among them."""
        custom = self.arguments.get("generation_config")
        given = {
            name: value
            for name, value in self.arguments.items()
            if value is not None and name != "generation_config"
        }
        return {**(vars(custom) if custom else {}), **given}

    @property
    def names(self) -> list[str]:
        """Names of all settings that may change something, but of single tokens."""
        return sorted(
            name
            for name in {*self._given(), *vars(self.defaults)}
            if not _is_neutral(self[name])
            and not name.startswith(("_", "output_", "return_", "transformers"))
            and not name.endswith("_token_id")
        )

    @property
    def num_beams(self) -> int:
        """Number of beams; 1 without beam search."""
        return int(self["num_beams"] or 1)

    @property
    def takes_a_cache(self) -> bool:
        """Whether our own cache can be passed, and holds the prompt afterwards."""
        return (
            self.arguments.get("past_key_values") is None
            and self["use_cache"] is not False
            and self["cache_implementation"] is None
            and not self.is_chunked
            and set(self.several_at_once) <= {"num_beams"}
        )

    @property
    def holds_every_key(self) -> bool:
        """Whether a pass reads all keys so far, and no others."""
        has_own_cache = self.arguments.get("past_key_values") is not None
        if has_own_cache or self.is_chunked:
            return False
        return self["use_cache"] is False or self["cache_implementation"] in (
            None,
            "dynamic",
        )

    @property
    def is_one_by_one(self) -> bool:
        """Whether every token is chosen, for good, after a pass that predicts it."""
        return not self.several_at_once

    @property
    def is_chunked(self) -> bool:
        """Whether the prompt is run in chunks."""
        return self["prefill_chunk_size"] is not None

    @property
    def several_at_once(self) -> tuple[str, ...]:
        """Those of :data:`SEVERAL_AT_ONCE` that are asked for."""
        return tuple(name for name in SEVERAL_AT_ONCE if not _is_neutral(self[name]))

    @property
    def treats_prompts_alike(self) -> bool:
        """Whether a batch of padded prompts gives what single ones do."""
        names = {*self._given(), *vars(self.defaults)} - ACT_ON_EACH_PROMPT
        if self["max_new_tokens"] is not None:
            names -= {"max_length"}
        return all(_is_neutral(self[name]) for name in names)

    def raw_logits_fit(self, prompt: Prompt) -> bool:
        """Whether the logits of all steps and beams can be kept for comparison."""
        text = prompt.config.get_text_config(decoder=True)
        longest = self["max_new_tokens"] or (self["max_length"] or 20)
        rows = longest * prompt.ids.shape[0] * self.num_beams
        num_bytes = int(rows * text.vocab_size * torch.float32.itemsize)
        return num_bytes <= free_memory(prompt.ids.device) * PART_OF_FREE


def _has_rows_of_pixels(prompt: Prompt) -> bool:
    """Whether an input's rows are not those of the prompts."""
    batch = prompt.ids.shape[0]
    return any(
        isinstance(value, Tensor) and value.shape[:1] != (batch,)
        for value in prompt.given_inputs.values()
    )


def _is_neutral(value: Any) -> bool:
    """Whether a setting changes nothing."""
    is_number = isinstance(value, (int, float)) and value is not True
    return value is None or (is_number and value in (0, 1))
