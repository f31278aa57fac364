"""Recomputing one token in one layer by plain autograd."""

import random
from dataclasses import dataclass

import torch
from captum_dexar.attention_gradients import AutogradReference, LayerGradients
from captum_dexar.decoding import check_log_probs, DecodingSteps, StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods import scoring
from captum_dexar.methods.options import DexAROptions
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.precision import logit_tolerance, rounding_dtype, widened
from captum_dexar.model.target_logits import rival_ids
from torch import Tensor


@dataclass(frozen=True)
class Verification:
    """The comparison of one map with plain autograd.

    Attributes:
        token (int): index of the token in the answer
        layer (int or None): index of the decoder layer; None if the maps of single
            layers were not kept, so that their sum was compared
        error (float): the largest difference, relative to the largest value of the map
    """

    token: int
    layer: int | None
    error: float


def verify(
    prompt: Prompt,
    answer_ids: Tensor,
    explained: StepAttributions,
    example: int,
    options: DexAROptions,
) -> Verification:
    """Compares a random token in a random layer with plain autograd: map and
    log-probability. Maps that are zero are not chosen, if there are others.

    That is a pass under eager attention over the prompt and the answer's tokens before
    it, without a cache. The choice does not touch the user's random numbers.

    Args:
        prompt (Prompt): one prompt
        answer_ids (Tensor): its answer, ``(steps,)``
        explained (StepAttributions): of the batch that it was explained in
        example (int): its row there
        options (DexAROptions): those it was explained with

    Raises:
        Inconsistent: the maps differ by more than rounding.
    """
    layers = list(explained.layer_indices or [])
    every_map = explained.layer_attr
    if every_map is None:
        every_map = explained.token_attr[:, :, None]
    every_map = every_map[example, : len(answer_ids)]
    # A map that is zero throughout shows little.
    candidates = every_map.amax(-1).nonzero().tolist() or [[0, 0]]
    token, place = random.SystemRandom().choice(candidates)
    given = every_map[token, place]
    if explained.layer_attr is not None:
        layers = [layers[place]]
    maps: list[Tensor] = []
    unfiltered: list[Tensor] = []
    dtype = rounding_dtype(prompt.model)
    contrasts = options.num_contrasts

    def add(gradients: LayerGradients) -> None:
        image = scoring.head_scores(
            gradients.image, gradients.num_image_keys, top_k=options.top_k
        )
        text = scoring.head_scores(
            gradients.text_blocks, gradients.num_text_keys, top_k=options.top_k
        )
        weights = scoring.head_weights(image, text, head_filter=options.head_filter)
        of_contrast = scoring.token_map(gradients.image, weights) / contrasts
        maps.append(of_contrast.cpu().double())
        largest = torch.maximum(image.abs(), text.abs())
        unfiltered.append(scoring.token_map(gradients.image, largest).cpu().double())

    steps = DecodingSteps(prompt, answer_ids[None, : token + 1], first_step=token)
    contrast_ids = steps.contrasts
    if explained.rival_ids is not None:
        contrast_ids = explained.rival_ids[example, token, :, None, None]
        _check_rivals(steps, contrast_ids, dtype)
    reference = AutogradReference(
        prompt.model,
        steps.prefixes(),
        steps.target_ids,
        prompt.image_keys,
        options.power,
        options.grad_kwargs,
        prompt.adapter.cross_attention_of(prompt.config),
        contrast_ids,
        prompt.adapter.probabilities_at_softmax(prompt.config),
        prompt.encoder_keys,
    )
    target_logits = reference(find_decoder(prompt.model), layers, add)
    expected = torch.stack(maps).sum(0)[0, 0]
    difference = float((given.cpu().double() - expected).abs().max())
    largest = float(expected.max())
    check_log_probs(
        target_logits,
        explained.token_log_probs[example, token].view(1, 1),
        dtype,
        [1],
    )
    # Eager attention works in float32 at most.
    eps = max(torch.finfo(one).eps for one in (dtype, torch.float32))
    # Head weights are small differences of large scores, which are rounded.
    rounding = 64 * eps * float(torch.stack(unfiltered).sum(0).max())
    verified = Verification(
        token,
        layers[0] if len(layers) == 1 else None,
        difference / largest if largest else difference,
    )
    if not difference <= eps**0.5 * largest + rounding:
        where = "all layers" if verified.layer is None else f"layer {verified.layer}"
        raise Inconsistent(
            f"Verification failed: the map of token {token} in {where} differs from "
            f"plain autograd by {verified.error:.3g} of its largest value. Please "
            "report this, with the model's type and the versions of torch and "
            'transformers. LayerDexAR(..., engine="autograd") is slow but independent.'
        )
    return verified


def _check_rivals(steps: DecodingSteps, rivals: Tensor, dtype: torch.dtype) -> None:
    """Raises Inconsistent unless they are the next choices in a pass of their own.

    Args:
        steps (DecodingSteps): one step
        rivals (Tensor): those that were explained, ``(rivals, 1, 1)``; which of two
            tokens of the same logit is meant may be a matter of rounding
        dtype (torch.dtype): the model's, for rounding
    """
    with torch.no_grad():
        logits = steps.full_pass().logits()
    expected = rival_ids(logits, steps.target_ids, len(rivals))
    values = widened(logits[0, 0])
    theirs, ours = (
        values[expected.flatten()],
        values[rivals.flatten().to(values.device)],
    )
    allowed = logit_tolerance(dtype, float(values.max().abs()))
    if not bool(((theirs - ours).abs() <= allowed).all()):
        raise Inconsistent(
            "Verification failed: the token was contrasted with "
            f"{rivals.flatten().tolist()}, but in a pass of its own the next choices "
            f"are {expected.flatten().tolist()}. Please report this, with the model's "
            "type and the versions of torch and transformers."
        )
