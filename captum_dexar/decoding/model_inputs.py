"""A model's inputs, as far as they do not depend on what is explained."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from captum_dexar.families import FamilyAdapter
from torch import nn, Tensor


def logits_of(model: nn.Module, positions: int | Tensor) -> dict[str, Any]:
    """Arguments that ask a model for the logits of some positions only.

    A few models can't be asked; of these, some take the argument and ignore it.
    """
    parameters = signature(model.forward).parameters.values()
    can_be_asked = any(
        parameter.name == "logits_to_keep" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )
    return {"logits_to_keep": positions} if can_be_asked else {}


def complete_inputs(
    adapter: FamilyAdapter, inputs: Mapping[str, Any], config: Any
) -> dict[str, Any]:
    """A copy of the inputs with an attention mask, and explicit positions or the
    decoder's first token where the family has them."""
    complete = {key: value for key, value in inputs.items() if value is not None}
    complete.setdefault("attention_mask", torch.ones_like(complete["input_ids"]))
    if adapter.is_encoder_decoder(config):
        return adapter.with_decoder_start(complete, config)
    positions = adapter.position_ids(complete["attention_mask"])
    if positions is not None:
        complete.setdefault("position_ids", positions)
    return complete
