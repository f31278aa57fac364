"""The cached state of a prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.decoding.growing_cache import growing_cache
from captum_dexar.families import FamilyAdapter
from captum_dexar.model.thread_hooks import forward_pre_hooks
from torch import nn, Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

# The type of decoder layers that keep the whole prompt and a window of the answer.
KEEPS_PROMPT = "reference_sliding_attention"


@dataclass(eq=False)
class PromptCache:
    """Keys and values of the positions before the explained ones.

    Attributes:
        cache (DynamicCache or None): ends before the position that predicts
            ``first_step``; a forward pass appends to it
        last_position (Tensor or None): position id of the prompt's last token,
            ``(batch, 1)`` or, with several axes, ``(axes, batch, 1)``; None if the
            decoder computes position ids itself
        encoder_states (Tensor or None): the encoder's output, ``(batch, tokens, hidden
            size)``
        first_step (int): the answer's step that the next position predicts
    """

    cache: DynamicCache | None = None
    last_position: Tensor | None = None
    encoder_states: Tensor | None = None
    first_step: int = 0

    @property
    def encoder_outputs(self) -> BaseModelOutput | None:
        """The encoder's output in the format that models take."""
        if self.encoder_states is None:
            return None
        return BaseModelOutput(last_hidden_state=self.encoder_states)

    def drop_copies(self, copies: int, num_examples: int) -> None:
        """Keeps one of the copies of every example that beam search makes.

        Args:
            copies (int): number of beams
            num_examples (int): number of prompts
        """
        if copies == 1:
            return
        kept = torch.arange(0, num_examples * copies, copies)
        if self.cache is not None:
            # Every kind of cache layer supports beam search's reordering.
            self.cache.reorder_cache(kept)
        if self.last_position is not None:
            positions = self.last_position
            self.last_position = positions.index_select(-2, kept.to(positions.device))
        if self.encoder_states is not None:
            self.encoder_states = self.encoder_states[::copies]


def new_cache(config: Any, adapter: FamilyAdapter, goes_back: bool) -> DynamicCache:
    """An empty cache.

    With ``goes_back`` it can be cropped by any number of positions, even if layers have
    a sliding window or a convolution; otherwise only sliding windows can.
    """
    cache = growing_cache(config)
    for layer in cache.layers:
        if hasattr(layer, "activate_past_recording"):
            if goes_back or getattr(layer, "is_sliding", False):
                layer.activate_past_recording()
    return cache


def keeping_cache(config: Any, prompt_length: int) -> DynamicCache | None:
    """An empty cache for prompt and answer in one pass, if the model needs one.

    A layer that keeps the whole prompt and the last tokens of the answer only knows
    from its cache where the prompt ends. Without one, every token of the answer would
    attend to all earlier ones, as it does not while the answer is generated.

    Args:
        config (PreTrainedConfig): the model's configuration
        prompt_length (int): tokens of the prompt
    """
    text = config.get_text_config(decoder=True)
    if KEEPS_PROMPT not in (getattr(text, "layer_types", None) or ()):
        return None
    cache = DynamicCache(config=text)
    for layer in cache.layers:
        if hasattr(layer, "set_prefill_length"):
            layer.set_prefill_length(prompt_length)
    return cache


@contextmanager
def watched_positions(model: nn.Module) -> Iterator[list[Tensor | None]]:
    """Collects the position id of the last token of this thread's first pass."""
    root: Any = model
    seen: list[Tensor | None] = []

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not seen:
            positions = kwargs.get("position_ids")
            is_tensor = isinstance(positions, Tensor)
            seen.append(positions[..., -1:].clone() if is_tensor else None)

    with forward_pre_hooks({root.get_decoder(): keep}, with_kwargs=True):
        yield seen
