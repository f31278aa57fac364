"""Token Activation Map, which needs only a forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.baselines.baseline import LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.decoder import Decoder, find_decoder
from captum_dexar.model.layers import find_layers, hidden_of
from captum_dexar.model.state import loaded_weights
from captum_dexar.model.target_logits import TargetLogits
from captum_dexar.model.thread_hooks import forward_hooks
from torch import nn, Tensor

_WINDOW = 3


class LayerTokenActivation(LayerBaseline):
    r"""Token Activation Map: which image tokens predict the token themselves.

    An image token's activation :math:`a` is the dot product of its final state and the
    output head's row of the explained token. *Estimated causal inference* weights the
    activations of earlier text tokens :math:`j` by relevance :math:`r_j` and subtracts
    this interference :math:`I` with the best-fitting scale :math:`s`. A *rank Gaussian
    filter* then removes isolated bright tokens.

    More details can be found in the paper: Y. Li et al., *Token Activation Map to
    Visually Explain Multimodal LLMs*, 2025, https://arxiv.org/abs/2506.23270

    With another ``layer=`` than the last, that layer's states are read through the
    final norm and the head (logit lens).

    Args:
        forward_func, device_ids: as in :class:`LayerDexAR`
        layer (nn.Module, optional): Default: None, the last decoder layer

    Raises:
        ValueError: several layers are given.

    Examples::

        >>> from captum_dexar import ImagePromptInput, VLMAttribution
        >>> from captum_dexar.baselines import LayerTokenActivation
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> method = VLMAttribution(LayerTokenActivation(model), processor)
        >>> method.attribute(inp, "the image shows a red circle .").token_attr.shape
        torch.Size([7, 144])
    """

    name = "Token Activation Map"

    def __init__(
        self,
        forward_func: nn.Module,
        layer: nn.Module | list[nn.Module] | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        if layer is None:
            super().__init__(forward_func, find_layers(self.model)[-1], device_ids)
        if len(self.layer_indices) != 1:
            raise ValueError(
                f"{self.get_name()} reads one layer, got {len(self.layer_indices)}."
            )

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`.

        Raises:
            TypeError: the model reads the image by cross-attention.
        """
        if self.adapter.cross_attention is not None:
            raise TypeError(
                f"{self.get_name()} is not defined for {self.adapter.name}: its image "
                "tokens have no final state, as they are read by cross-attention."
            )
        decoder = find_decoder(self.model)
        explained_pass = steps.full_pass()
        states: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            states.append(hidden_of(output).detach())

        layer = decoder.layers[self.layer_indices[0]]
        with torch.no_grad(), forward_hooks({layer: keep}):
            target_logits = explained_pass.run()
            hidden = states[0]
            if decoder.final_norm is not None:
                hidden = decoder.final_norm(hidden)
        on_layer()
        maps = torch.stack(
            [
                self._example(decoder, steps, explained_pass, hidden, example)
                for example in range(hidden.shape[0])
            ]
        )
        return maps[:, :, None], target_logits, self.layer_indices

    def _example(
        self,
        decoder: Decoder,
        steps: DecodingSteps,
        explained_pass: Any,
        hidden: Tensor,
        example: int,
    ) -> Tensor:
        """Maps of all steps of one example, ``(steps, image tokens)``."""
        ids = explained_pass.inputs["input_ids"][example]
        is_text = explained_pass.inputs["attention_mask"][example].bool()
        is_text[steps.prompt.image_keys[example]] = False
        image_states = hidden[example, steps.prompt.image_keys[example]].float()
        views = steps.prompt.layout.views
        maps = []
        for row, target in zip(
            explained_pass.query_positions, steps.target_ids[example]
        ):
            earlier = is_text[: int(row) + 1].nonzero()[:, 0]
            activation = token_activation(
                image_states,
                hidden[example, earlier].float(),
                head_rows(decoder, ids[earlier]),
                head_rows(decoder, target[None])[0],
                ids[earlier] == target,
            )
            for view in views:
                tokens = view.tokens.to(activation.device)
                filtered = rank_gaussian_filter(activation[tokens].view(view.grid))
                activation[tokens] = filtered.flatten()
            maps.append(activation)
        return torch.stack(maps)


def head_rows(decoder: Decoder, ids: Tensor) -> Tensor:
    """The output head's rows of some tokens, ``(tokens, hidden size)``, float32."""
    head = decoder.head
    if type(head) is not nn.Linear:
        raise TypeError(
            "Token Activation Map reads rows of the output head, which must be a "
            f"torch.nn.Linear, got {type(head).__module__}.{type(head).__name__}."
        )
    with loaded_weights(head):
        return head.weight.detach()[ids.to(head.weight.device)].float()


def token_activation(
    image_states: Tensor,
    text_states: Tensor,
    text_rows: Tensor,
    target_row: Tensor,
    is_target: Tensor,
) -> Tensor:
    """Activations of a token minus those of earlier text tokens.

    Args:
        image_states (Tensor): final states ``F``, ``(image tokens, hidden size)``
        text_states (Tensor): final states of earlier text tokens, ``(texts, hidden
            size)``
        text_rows (Tensor): the head's rows of these tokens, ``(texts, hidden size)``
        target_row (Tensor): the head's row of the explained token, ``(hidden size,)``
        is_target (Tensor): which earlier tokens have its id, ``(texts,)``, bool

    Returns:
        *Tensor* ``(image tokens,)``, non-negative
    """
    activation = (image_states @ target_row).relu()
    relevance = (text_states @ target_row).relu().masked_fill(is_target, 0.0)
    total = relevance.sum()
    if total <= 0:
        return activation
    relevance = relevance / total
    interference = (image_states @ text_rows.T).relu() @ relevance
    power = interference @ interference
    if power <= 0:
        return activation
    scale = (activation @ interference) / power
    return (activation - scale * interference).relu()


def rank_gaussian_filter(grid: Tensor) -> Tensor:
    """A weighted mean of each 3 x 3 window, weights a Gaussian of the values' ranks.

    The Gaussian's width is the window's coefficient of variation: in a uniform window
    only the median counts, in an uneven one all values.

    Args:
        grid (Tensor): ``(h, w)``; borders are reflected, or repeated where there are
            fewer than two rows or columns

    Returns:
        *Tensor* ``(h, w)``
    """
    mode = "reflect" if min(grid.shape) > 1 else "replicate"
    padded = nn.functional.pad(grid[None, None], (1, 1, 1, 1), mode=mode)
    windows = nn.functional.unfold(padded, _WINDOW)[0].T.sort(dim=1).values
    mean = windows.mean(1)
    deviation = windows.std(1, correction=0)
    variation = deviation / mean.where(mean > 0, 1.0)
    rank = torch.arange(_WINDOW**2, device=grid.device) - _WINDOW**2 // 2
    spread = (2 * variation.square()).clamp(min=1e-12)[:, None]
    weights = torch.exp(-rank.square() / spread)
    filtered = (windows * weights).sum(1) / weights.sum(1)
    return filtered.view_as(grid)
