"""Attention, and the gradients of each layer's reading, by plain differentiation.

Independent of the package's closed form, and simpler: all attention matrices of one
pass are kept, which only small models allow. What the candidates are made of is all
here, so that one pass serves all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.attention_gradients.eager_attention import eager_attention
from captum_dexar.decoding import DecodingSteps
from captum_dexar.model.decoder import Decoder, find_decoder
from torch import Tensor

# What the chat template of the drawn worlds writes around question and image.
TEMPLATE = "USER: ASSISTANT:"
# Tokens of which the model says that they are the most likely instead.
NUM_RIVALS = 4


@dataclass(frozen=True, eq=False)
class Readings:
    """What each layer reads of each token of an answer. Keys are positions.

    Attributes:
        attention (Tensor): attention probabilities, ``(layers, steps, heads, keys)``
        gradients (Tensor): of the reading with respect to them, zero where a position
            may not attend; of the same shape
        contrasted (Tensor): of the reading minus that of the token which the layer
            holds for the most likely of all others
        against (Tensor): of the reading minus those of the tokens that the model itself
            holds for the most likely of all others, ``(rivals, layers, ...)``
        final (Tensor): of the model's own logit minus that of its runner-up, through
            all layers above
        probabilities (Tensor): the lens' probability of the token, ``(layers, steps)``
        is_image (Tensor): ``(keys,)`` bool
        is_template (Tensor): the first token and those of the template, ``(keys,)``
            bool
        log_probs (Tensor): the model's log-probability of each token, ``(steps,)``
    """

    attention: Tensor
    gradients: Tensor
    contrasted: Tensor
    against: Tensor
    final: Tensor
    probabilities: Tensor
    is_image: Tensor
    is_template: Tensor
    log_probs: Tensor


def eager_readings(steps: DecodingSteps, template_ids: list[int]) -> Readings:
    """Runs prompt and answer once, and differentiates each layer's own readings.

    Args:
        steps (DecodingSteps): one prompt and its answer
        template_ids (list of int): ids of the tokens of the template
    """
    prompt, model = steps.prompt, steps.prompt.model
    decoder = find_decoder(model)
    *_, inputs = steps.prefixes()
    targets = steps.target_ids[0]
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda *called: states.append(_states(called[-1])))
        for layer in decoder.layers
    ]
    try:
        with torch.enable_grad(), eager_attention(model):
            output = _run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    num_keys, count = output.logits.shape[1], len(targets)
    positions = torch.arange(num_keys - count, num_keys)
    is_allowed = torch.arange(num_keys) <= positions[:, None]

    def of_answer(tensor: Tensor) -> Tensor:
        """``(steps, heads, keys)`` of the explained positions."""
        return tensor[0, :, positions].double().transpose(0, 1)

    last = output.logits[0, positions]
    rivals = _others(last, targets).topk(NUM_RIVALS, 1).indices.T
    attention, gradients, contrasted, against, probabilities = [], [], [], [], []
    for probability, state in zip(output.attentions, states):
        logits = _lens(decoder, state[0, positions])

        def gradient(ids: Tensor) -> Tensor:
            reading = logits.gather(1, ids[:, None]).sum()
            (found,) = torch.autograd.grad(reading, probability, retain_graph=True)
            return of_answer(found) * is_allowed[:, None]

        whole = gradient(targets)
        attention.append(of_answer(probability.detach()))
        gradients.append(whole)
        contrasted.append(whole - gradient(_others(logits, targets).argmax(1)))
        against.append(whole - torch.stack([gradient(ids) for ids in rivals]))
        known = logits.detach().double().softmax(1).gather(1, targets[:, None])
        probabilities.append(known[:, 0])
    ids = inputs["input_ids"][0]
    is_template = torch.isin(ids, torch.tensor(template_ids))
    is_template[prompt.length :] = False
    is_template[0] = True
    is_image = torch.zeros(num_keys, dtype=torch.bool)
    is_image[prompt.image_keys[0]] = True
    log_probs = output.logits[0, positions].detach().double().log_softmax(1)
    return Readings(
        torch.stack(attention),
        torch.stack(gradients),
        torch.stack(contrasted),
        torch.stack(against, 1),
        _final_gradients(output, targets, rivals[0], positions) * is_allowed[:, None],
        torch.stack(probabilities),
        is_image,
        is_template,
        log_probs.gather(1, targets[:, None])[:, 0],
    )


def _final_gradients(
    output: Any, targets: Tensor, runners_up: Tensor, positions: Tensor
) -> Tensor:
    """One backward pass through all layers for each step."""
    found = []
    for place, target, runner_up in zip(positions, targets, runners_up):
        logits = output.logits[0, place]
        difference = logits[target] - logits[runner_up]
        gradients = torch.autograd.grad(
            difference, output.attentions, retain_graph=True
        )
        found.append(torch.stack([one[0, :, place].double() for one in gradients]))
    return torch.stack(found, 1)


def _others(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits of all tokens but the targets."""
    return logits.detach().scatter(1, targets[:, None], -torch.inf)


class LastReadings:
    """The readings of the last answer, for methods that explain it one by one.

    Args:
        template_ids (list of int): ids of the tokens of the template
    """

    def __init__(self, template_ids: list[int]) -> None:
        self.template_ids = template_ids
        self._key: tuple[Any, ...] = ()
        self._readings: Readings | None = None

    def of(self, steps: DecodingSteps) -> Readings:
        """The readings of an answer, computed unless it is the last one again."""
        pixels = steps.prompt.inputs[steps.prompt.adapter.pixel_input]
        key = (
            id(steps.prompt.model),
            pixels.numpy().tobytes(),
            tuple(steps.prompt.ids.flatten().tolist()),
            tuple(steps.answer_ids.flatten().tolist()),
        )
        if self._readings is None or key != self._key:
            self._readings = eager_readings(steps, self.template_ids)
            self._key = key
        return self._readings


def _run(model: Any, inputs: Mapping[str, Any]) -> Any:
    return model(**inputs, output_attentions=True, use_cache=False)


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _lens(decoder: Decoder, states: Tensor) -> Tensor:
    """A layer's logits of the whole vocabulary."""
    normed = states if decoder.final_norm is None else decoder.final_norm(states)
    logits: Tensor = decoder.logit_transform(decoder.head(normed))
    return logits
