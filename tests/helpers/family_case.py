"""A variant of a family as a tiny random model, and what is checked on every one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.compatibility import installed
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs.model_inputs import prepared
from torch import nn, Tensor


@dataclass(frozen=True)
class FamilyCase:
    """One variant.

    Attributes:
        name: of the variant
        model: makes the tiny model, in eval mode, from a seed and an attention
            implementation; weights scaled up and norms perturbed, so that attention is
            not uniform and image features do not vanish
        inputs: makes the model's inputs for one prompt from a seed and the number of
            text tokens before the image; no processor needed
        tolerance: largest relative error against plain autograd; ten times as much
            before torch 2.7, whose float32 kernels are less precise
        implementations: attention implementations under which it is compared
        can_be_padded: whether left-padded batches are to equal single prompts
        has_own_tests: whether its inputs or its attention are so special that it is
            compared with a reference in tests of its own
        places: what has to be asked for, where image tokens have no places
    """

    name: str
    model: Callable[[int, str], nn.Module]
    inputs: Callable[[int, int], dict[str, Any]]
    tolerance: float = 1e-5
    implementations: Sequence[str] = ("sdpa", "eager")
    can_be_padded: bool = True
    has_own_tests: bool = False
    places: str | None = None

    def __post_init__(self) -> None:
        if (installed("torch") or (2, 7)) < (2, 7):
            object.__setattr__(self, "tolerance", 10 * self.tolerance)


def left_padded_batch(
    model: nn.Module, examples: Sequence[Mapping[str, Any]], pad_id: int = 0
) -> dict[str, Any]:
    """One batch of several prompts, as a processor with left padding makes it."""
    config: Any = model.config
    adapter = adapter_for_config(config)
    length = max(example["input_ids"].shape[1] for example in examples)
    rows: dict[str, list[Tensor]] = {}
    for example in examples:
        complete = dict(example)
        complete.setdefault("attention_mask", torch.ones_like(example["input_ids"]))
        missing = length - example["input_ids"].shape[1]
        for name, value in complete.items():
            if name == "input_ids" or name in adapter.sequence_inputs:
                filling = pad_id if name == "input_ids" else 0
                ahead = value[:, :1].expand(-1, missing, *value.shape[2:])
                value = torch.cat([torch.full_like(ahead, filling), value], dim=1)
            rows.setdefault(name, []).append(prepared(value, model))
    joined = {
        name: torch.cat(values) if isinstance(values[0], Tensor) else values[0]
        for name, values in rows.items()
    }
    return adapter.joined(joined, len(examples))
