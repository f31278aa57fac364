"""How much is explained at once, depending on free memory."""

from typing import Any

import psutil
import torch
from torch import nn, Tensor

# More tokens at once do not make matrix products faster.
MOST_TOKENS = 256
FEWEST_TOKENS = 16
# Explaining takes up at most this fraction of the free memory.
PART_OF_FREE = 1 / 16
# Tensors in a layer's graph per projection, gradients included.
COPIES = 4
# What is recorded while a model generates may grow to this fraction of the model's
# weights, or for a small model to this many bytes.
RECORDED_PART = 1 / 25
RECORDED_BYTES = 28 * 2**20


def free_memory(device: torch.device) -> int:
    """Free bytes on a device, or of the machine where the device can't be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def tokens_at_once(model: nn.Module, layer: nn.Module, target_ids: Tensor) -> int:
    """How many decoding steps are explained together.

    Args:
        model (nn.Module): the model
        layer (nn.Module): one of its decoder layers
        target_ids (Tensor): ``(batch, steps)``
    """
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    projections = sum(
        module.out_features
        for module in layer.modules()
        if isinstance(module, nn.Linear)
    )
    width = COPIES * (projections + 8 * text.hidden_size + text.vocab_size)
    a_token = width * torch.float32.itemsize * target_ids.shape[0]
    fitting = int(free_memory(target_ids.device) * PART_OF_FREE) // a_token
    return int(max(FEWEST_TOKENS, min(MOST_TOKENS, fitting)))


def recorded_bytes(model: nn.Module, device: torch.device) -> int:
    """How much may be recorded of the passes that generate, before it is explained.

    Args:
        model (nn.Module): the model
        device (torch.device): where it runs
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    fitting = free_memory(device) * PART_OF_FREE
    return int(min(max(RECORDED_BYTES, weights * RECORDED_PART), fitting))
