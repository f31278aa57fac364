"""Batches of prompts, padded on the left."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from captum_dexar.families import FamilyAdapter
from captum_dexar.inputs.prompt import Prompt
from torch import Tensor


def batch_key(prompt: Prompt) -> Hashable:
    """Prompts with equal keys can share a batch."""
    inputs, adapter = prompt.given_inputs, prompt.adapter
    shapes = [
        (name, tuple(value.shape[1:]) if isinstance(value, Tensor) else repr(value))
        for name, value in sorted(inputs.items())
        if not _grows(name, adapter)
    ]
    grids = [(name, inputs[name].tolist()) for name in adapter.grid_inputs]
    names = sorted(name for name in inputs if name != "attention_mask")
    return repr((prompt.image_keys.shape[1], names, shapes, grids))


def batch_of(prompts: Sequence[Prompt]) -> Prompt:
    """Joins prompts with the same :func:`batch_key`, padded on the left."""
    if len(prompts) == 1:
        return prompts[0]
    first = prompts[0]
    pad_id = pad_token_id(first.config)
    length = max(map(_length, prompts))
    rows: dict[str, list[Any]] = {}
    for prompt in prompts:
        inputs = dict(prompt.given_inputs)
        if "input_ids" in inputs:
            inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        missing = length - _length(prompt)
        for name, value in inputs.items():
            if _grows(name, first.adapter):
                filling = pad_id if name == "input_ids" else 0
                ahead = value[:, :1].expand(-1, missing, *value.shape[2:])
                value = torch.cat([torch.full_like(ahead, filling), value], dim=1)
            rows.setdefault(name, []).append(value)
    joined = {
        name: torch.cat(values) if isinstance(values[0], Tensor) else values[0]
        for name, values in rows.items()
    }
    joined = first.adapter.joined(joined, len(prompts))
    return Prompt(first.model, joined, adapter=first.adapter, examples=prompts)


def answers_of(prompt: Prompt) -> Tensor | None:
    """The given answers of a batch, ``(batch, steps)``, right-padded, or None."""
    answers = [one.answer for one in prompt.examples if one.answer is not None]
    if not answers:
        return None
    return torch.nn.utils.rnn.pad_sequence(
        answers, batch_first=True, padding_value=pad_token_id(prompt.config)
    )


def pad_token_id(config: Any) -> int:
    """The padding token of the text configuration, or 0 if it has none."""
    return getattr(config.get_text_config(), "pad_token_id", None) or 0


def _length(prompt: Prompt) -> int:
    """Number of tokens that a prompt is padded by; a decoder's start is not."""
    ids = prompt.given_inputs.get("input_ids")
    return 0 if ids is None else int(ids.shape[1])


def _grows(name: str, adapter: FamilyAdapter) -> bool:
    return name == "input_ids" or name in adapter.sequence_inputs
