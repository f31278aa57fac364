"""Inputs of a few text tokens for a model, whatever else it wants to be given."""

from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn, Tensor

# States of an encoder that are as good as any other.
NUM_STATES = 3


def probe_inputs(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    """The model's keyword arguments for a few text tokens.

    A decoder that reads an encoder of the image alone gets made-up states of it, and a
    model that does not run without an image a blank one.

    Args:
        model (nn.Module): the vision-language model
        ids (Tensor): ``(1, tokens)``
    """
    root: Any = model
    config = root.config
    parameters = signature(root.forward).parameters
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if not getattr(config, "is_encoder_decoder", False):
        return {**prompt, **_blank_image(model, parameters, ids)}
    if root.main_input_name == "input_ids" or hasattr(config, "image_token_id"):
        if "bbox" in parameters:
            # Of words that lie nowhere.
            prompt["bbox"] = torch.zeros(*ids.shape, 4, device=ids.device)
        return {**prompt, "decoder_input_ids": ids}
    of_encoder = getattr(config, "encoder", None)
    text = config.get_text_config(decoder=True)
    width = getattr(of_encoder, "hidden_size", None) or text.hidden_size
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    states = torch.ones(1, NUM_STATES, width, dtype=dtype, device=ids.device)
    # Some models read the states, others what was pooled from them.
    return {"decoder_input_ids": ids, "encoder_outputs": (states, states)}


def _blank_image(model: nn.Module, parameters: Any, ids: Tensor) -> dict[str, Any]:
    """An image of zeros, for a model that does not run without one."""
    pixels_of = parameters.get("pixel_values")
    is_needed = pixels_of is not None and pixels_of.default is Parameter.empty
    # By its own argument for what a token may see of which image.
    has_mask = "image_attention_mask" in parameters
    if not is_needed and not has_mask:
        return {}
    root: Any = model
    side = root.config.vision_config.image_size
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    pixels = torch.zeros(1, 3, side, side, dtype=dtype, device=ids.device)
    if not has_mask:
        return {"pixel_values": pixels}
    sees = torch.ones_like(ids)[..., None]
    return {"pixel_values": pixels[None], "image_attention_mask": sees}
