"""Several prompts in one batch, padded on the left."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from captum_dexar.families import FamilyAdapter
from torch import Tensor


def batch_key(
    inputs: Mapping[str, Any], num_image_tokens: int, adapter: FamilyAdapter
) -> Hashable:
    """What prompts must agree in to go into one batch.

    Args:
        inputs (Mapping): the model's inputs of one prompt
        num_image_tokens (int): its image tokens
        adapter (FamilyAdapter): the model's family
    """
    shapes = [
        (name, tuple(value.shape[1:]) if isinstance(value, Tensor) else repr(value))
        for name, value in sorted(inputs.items())
        if not _grows(name, adapter)
    ]
    grids = [(name, inputs[name].tolist()) for name in adapter.grid_inputs]
    names = sorted(name for name in inputs if name != "attention_mask")
    return repr((num_image_tokens, names, shapes, grids))


def left_padded(
    examples: Sequence[Mapping[str, Any]], adapter: FamilyAdapter, pad_id: int
) -> dict[str, Any]:
    """One batch of prompts, as a processor with left padding makes it.

    Args:
        examples (sequence of Mapping): the model's inputs of one prompt each, of one
            :func:`batch_key`
        adapter (FamilyAdapter): the model's family
        pad_id (int): the padding token
    """
    length = max(example["input_ids"].shape[1] for example in examples)
    rows: dict[str, list[Any]] = {}
    for example in examples:
        complete = dict(example)
        complete.setdefault("attention_mask", torch.ones_like(example["input_ids"]))
        missing = length - example["input_ids"].shape[1]
        for name, value in complete.items():
            if _grows(name, adapter):
                filling = pad_id if name == "input_ids" else 0
                ahead = value[:, :1].expand(-1, missing, *value.shape[2:])
                value = torch.cat([torch.full_like(ahead, filling), value], dim=1)
            rows.setdefault(name, []).append(value)
    return {
        name: torch.cat(values) if isinstance(values[0], Tensor) else values[0]
        for name, values in rows.items()
    }


def right_padded(answers: Sequence[Tensor], pad_id: int) -> Tensor:
    """Answers of different lengths as ``(batch, steps)``; what is added is not read."""
    return torch.nn.utils.rnn.pad_sequence(
        list(answers), batch_first=True, padding_value=pad_id
    )


def _grows(name: str, adapter: FamilyAdapter) -> bool:
    return name == "input_ids" or name in adapter.sequence_inputs
