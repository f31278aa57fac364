"""Letting a model answer, and keeping what explaining can use again."""

from collections.abc import Mapping
from typing import Any

import torch
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar.decoding import complete_inputs
from captum_dexar.families import adapter_for_config
from captum_dexar.model_state import kept_state
from torch import nn, Tensor
from transformers import DynamicCache


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
    model: nn.Module, inputs: Mapping[str, Any], gen_args: Mapping[str, Any] | None
) -> tuple[Tensor, DynamicCache | None]:
    """Lets the model answer, and keeps the cache if it can be used again.

    Args:
        model (nn.Module): the vision-language model
        inputs (Mapping): its inputs for one prompt, or several padded on the left
        gen_args (Mapping or None): arguments of ``model.generate``; None for Captum's
            default, at most 25 tokens, greedily

    Returns:
        The generated ids, ``(prompts, steps)``, end-of-sequence token included and what
        follows it in a shorter answer of several, and a cache of all positions of the
        prompts but the last, or None.

    Raises:
        ValueError: nothing was generated, or several answers were asked for.
    """
    arguments = dict(DEFAULT_GEN_ARGS if gen_args is None else gen_args)
    arguments["return_dict_in_generate"] = True
    prompt = prompt_ids(model, inputs)
    prompt_length = prompt.shape[1]
    cache = recording_cache(model, inputs, arguments)
    if cache is not None:
        arguments["past_key_values"] = cache
    generating: Any = model
    with torch.no_grad(), kept_state(model):
        output = generating.generate(**inputs, **arguments)
    if output.sequences.shape[0] != prompt.shape[0]:
        raise ValueError(
            "gen_args must ask for one answer, got num_return_sequences="
            f"{output.sequences.shape[0] // prompt.shape[0]}."
        )
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
    if cache is None or cache.get_seq_length() != prompt_length + answer.shape[1] - 1:
        return answer, None
    cache.crop(-answer.shape[1])
    return answer, cache


def answer_lengths(
    answers: Tensor, model: nn.Module, gen_args: Mapping[str, Any] | None
) -> list[int]:
    """Tokens of each of several answers, its end-of-sequence token included.

    Args:
        answers (Tensor): ``(prompts, steps)``, as :func:`generate` gives them
        model (nn.Module): the model that generated them
        gen_args (Mapping or None): as it was told to
    """
    settings: Any = model.generation_config
    ends = (gen_args or {}).get("eos_token_id", settings.eos_token_id)
    ends = [] if ends is None else torch.as_tensor(ends).flatten().tolist()
    lengths = []
    for answer in answers.tolist():
        stop = [place for place, token in enumerate(answer) if token in ends]
        lengths.append(stop[0] + 1 if stop else len(answer))
    return lengths


def recording_cache(
    model: nn.Module, inputs: Mapping[str, Any], arguments: Mapping[str, Any]
) -> DynamicCache | None:
    """A cache for generating that can go back, where that is exact.

    Args:
        model (nn.Module): the model
        inputs (Mapping): its inputs
        arguments (Mapping): those of ``model.generate``

    Returns:
        An empty cache; None where the family's prompts can't be replayed, or generating
        is not plain enough.
    """
    config: Any = model.config
    if not adapter_for_config(config).is_replayable(inputs, config):
        return None
    if arguments.get("past_key_values") is not None:
        return None
    settings: Any = model.generation_config

    def setting(name: str) -> Any:
        custom = arguments.get("generation_config")
        for source in (arguments, vars(custom) if custom else {}, vars(settings)):
            if source.get(name) is not None:
                return source[name]
        return None

    is_plain = (
        (setting("num_beams") or 1) == 1
        and (setting("num_return_sequences") or 1) == 1
        and setting("cache_implementation") is None
        and setting("use_cache") is not False
        and arguments.get("assistant_model") is None
        and setting("prompt_lookup_num_tokens") is None
    )
    if not is_plain:
        return None
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.activate_past_recording()
    return cache
