"""Whether a model can be explained in the state it is in."""

import torch
from torch import nn


def check_model_state(model: nn.Module) -> None:
    """Raises RuntimeError where gradients can't be had or would be random."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attributions need gradients, which torch.inference_mode switches off for "
            "good. Leave that block; torch.no_grad is fine."
        )
    if any(module.training for module in model.modules()):
        raise RuntimeError(
            "The model is in training mode, where dropout makes every explanation a "
            "different one. Call model.eval() first."
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise RuntimeError(
            "The model's weights were made inside torch.inference_mode, so that no "
            "gradient can pass. Load the model outside of it."
        )
