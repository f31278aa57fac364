"""Token Activation Map, which needs only a forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.baselines.baseline import LayerBaseline
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.model_pass import ModelPass
from captum_dexar.decoding.steps import SPECIAL_TOKENS
from captum_dexar.inputs import ImagePromptInput, Prompt
from captum_dexar.model.decoder import Decoder, find_decoder
from captum_dexar.model.layers import find_layers
from captum_dexar.model.state import loaded_weights
from captum_dexar.model.states import states_of
from captum_dexar.model.target_logits import TargetLogits
from captum_dexar.model.thread_hooks import forward_hooks
from torch import nn, Tensor

CONTEXTS = ("question", "all")
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

    As in the authors' code, the earlier tokens are those of the question and of the
    answer, without the template and the beginning of the sequence. The relevance of a
    question's token is read from its own final state, that of an answer's token from
    the state that predicted it. The question's tokens are known for an
    :class:`ImagePromptInput` made of a question or of chat messages. Otherwise they are
    the prompt's text tokens after its first image, special tokens left out.

    Two details of their code are not followed, because the paper has neither: there the
    first token of the question stands for what the model predicts at its place, and the
    first token of the answer for the last one of the prompt. Nor is the brightness of a
    map scaled by the relevance of the text: maps are normalised one by one here.

    With another ``layer=`` than the last, that layer's states are read through the
    final norm and the head (logit lens).

    Args:
        forward_func, device_ids: as in :class:`LayerDexAR`
        layer (nn.Module, optional): Default: None, the last decoder layer
        context (str, optional): the earlier text tokens whose activations are
            subtracted: ``"question"``, the question's and the answer's; or ``"all"``,
            every text token, the template's included. Default: ``"question"``

    Raises:
        ValueError: several layers are given, or the context is another.

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
        *,
        context: str = CONTEXTS[0],
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        if layer is None:
            super().__init__(forward_func, find_layers(self.model)[-1], device_ids)
        if len(self.layer_indices) != 1:
            raise ValueError(
                f"{self.get_name()} reads one layer, got {len(self.layer_indices)}."
            )
        if context not in CONTEXTS:
            raise ValueError(
                f"context must be one of {', '.join(map(repr, CONTEXTS))}, got "
                f"{context!r}."
            )
        self.context = context

    def layer_attributions(
        self, steps: DecodingSteps, cache: Any, on_layer: Callable[[], object]
    ) -> tuple[Tensor, TargetLogits, list[int]]:
        """See :meth:`LayerBaseline.layer_attributions`.

        Raises:
            TypeError: the model reads the image by cross-attention.
        """
        if self.adapter.cross_attention is not None or steps.prompt.encoder_keys:
            raise TypeError(
                f"{self.get_name()} is not defined for {self.adapter.name}: its image "
                "tokens have no final state, as they are read by cross-attention."
            )
        check_neighbours(self.get_name(), steps.prompt)
        decoder = find_decoder(self.model)
        explained_pass = steps.full_pass()
        states: list[Tensor] = []

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            states.append(states_of(module, args, kwargs, output).detach())

        layer = decoder.layers[self.layer_indices[0]]
        with torch.no_grad(), forward_hooks({layer: keep}, with_kwargs=True):
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
        explained_pass: ModelPass,
        hidden: Tensor,
        example: int,
    ) -> Tensor:
        """Maps of all steps of one example, ``(steps, image tokens)``."""
        prompt = steps.prompt
        image_states = hidden[example, prompt.image_keys[example]].float()
        asked = self._prompt_tokens(prompt, example)
        last = int(explained_pass.query_positions[-1])
        answer = torch.arange(prompt.length, last + 1, device=asked.device)
        # A token of the answer counts as relevant where it was predicted.
        read_at = torch.cat([asked, answer - 1])
        ids = explained_pass.inputs["input_ids"][example]
        context_ids = ids[torch.cat([asked, answer])]
        states = hidden[example, read_at].float()
        rows = head_rows(decoder, context_ids)
        target_ids = steps.target_ids[example]
        views = prompt.layout.views
        maps = []
        for target, row, position in zip(
            target_ids, head_rows(decoder, target_ids), explained_pass.query_positions
        ):
            num_earlier = len(asked) + int(position) + 1 - prompt.length
            earlier = slice(num_earlier)
            activation = token_activation(
                image_states,
                states[earlier],
                rows[earlier],
                row,
                context_ids[earlier] == target,
            )
            for view in views:
                tokens = view.tokens.to(activation.device)
                filtered = rank_gaussian_filter(activation[tokens].view(view.grid))
                activation[tokens] = filtered.flatten()
            maps.append(activation)
        return torch.stack(maps)

    def _prompt_tokens(self, prompt: Prompt, example: int) -> Tensor:
        """Positions of the prompt's tokens that count as earlier text."""
        ids: Tensor = prompt.inputs["input_ids"][example]
        is_text: Tensor = prompt.inputs["attention_mask"][example] != 0
        image_keys = prompt.image_keys[example]
        is_text[image_keys] = False
        every = is_text.nonzero()[:, 0]
        if self.context == "all":
            return every
        # A batch that came as one mapping has no inputs of its rows.
        is_listed = len(prompt.examples) == len(prompt.inputs["input_ids"])
        inp = prompt.examples[example].inp if is_listed else None
        if isinstance(inp, ImagePromptInput):
            num_before = int((every < image_keys.max()).sum())
            asked = inp.asked_positions(ids[every].tolist(), num_before)
            if asked is not None:
                return every[torch.tensor(asked, dtype=torch.long, device=every.device)]
        is_special = torch.isin(ids[every], special_ids(prompt.config).to(ids.device))
        return every[(every > image_keys.min()) & ~is_special]


def check_neighbours(name: str, prompt: Prompt) -> None:
    """Raises TypeError unless image tokens have neighbours on a grid."""
    if prompt.adapter.follows_resampler:
        raise TypeError(
            f"{name} smooths over neighbouring image tokens, but those of "
            f"{prompt.adapter.name} are queries, which have no neighbours."
        )


def special_ids(config: Any) -> Tensor:
    """The ids of special tokens that a configuration names."""
    ids: set[int] = set()
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if name.endswith(SPECIAL_TOKENS):
                values = value if isinstance(value, (list, tuple)) else [value]
                ids.update(one for one in values if isinstance(one, int))
    return torch.tensor(sorted(ids), dtype=torch.long)


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
        text_states (Tensor): final states in which the relevance of earlier text tokens
            is read, ``(texts, hidden size)``
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
