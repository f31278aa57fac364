"""Builds the result of an answer from raw attributions."""

from typing import Any

import torch
from captum.attr import ImageMaskInput
from captum_dexar.decoding import StepAttributions
from captum_dexar.inputs import ImagePromptInput, ImageTokenInput, Prompt
from captum_dexar.inputs.processor_pixels import rgb_as_processed
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.methods.resampler import spread_over_patches
from captum_dexar.methods.scoring import sequence_attribution
from captum_dexar.methods.verification import Verification
from captum_dexar.model.finite import check_finite
from captum_dexar.result.answer_tokens import AnswerTokens, token_texts
from captum_dexar.result.result import VLMAttributionResult
from PIL import Image
from torch import Tensor

# What the fields of attributions are, in errors.
_NAMES = {
    "token_log_probs": "The answer's log-probabilities in the pass of",
    "token_attr": "The maps of",
    "token_weights": "The token weights of",
    "layer_attr": "The layers' maps of",
    "head_weights": "The heads' weights of",
    "convergence_delta": "The convergence deltas of",
}


def answer_result(
    prompt: Prompt,
    target_ids: Tensor,
    explained: StepAttributions,
    example: int = 0,
    *,
    processor: Any,
    method: str,
    normalize: bool,
    verification: Verification | None = None,
    earlier_ids: Tensor | None = None,
) -> VLMAttributionResult:
    """The result of one answer, on the CPU.

    Args:
        prompt (Prompt): the answer's single prompt
        target_ids (Tensor): the answer, ``(T,)``
        explained (StepAttributions): attributions of a whole batch
        example (int, optional): index of the answer in the batch. Default: 0
        processor (ProcessorMixin or None): decodes the tokens
        method (str): the method's name
        normalize (bool): whether the sequence map sums normalised maps
        verification (Verification, optional): a comparison with plain autograd.
            Default: None
        earlier_ids (Tensor, optional): the tokens that a stream yielded before, ``(S,
            )``. Default: None, ``target_ids`` are the whole answer

    Raises:
        RuntimeError: an attribution, or another number, is NaN or infinite.
    """

    def of_answer(name: str) -> Tensor | None:
        tensor: Tensor | None = getattr(explained, name)
        if tensor is None:
            return None
        # A copy: a view would keep, and pickle, the values of the whole batch.
        values = tensor[example, : len(target_ids)].detach().cpu().clone()
        check_finite(values, f"{_NAMES[name]} {method}", prompt.model)
        return values

    if explained.layout is None and prompt.adapter.follows_resampler:
        explained = spread_over_patches(explained, prompt)
    layout = prompt.layout if explained.layout is None else explained.layout
    answer = AnswerTokens(target_ids.cpu().clone(), processor, earlier_ids)
    log_probs = of_answer("token_log_probs")
    every_token = of_answer("token_attr")
    weights = of_answer("token_weights")
    layer_attr = of_answer("layer_attr")
    rival_ids, rival_tokens = None, None
    if explained.rival_ids is not None:
        rival_ids = explained.rival_ids[example, : len(target_ids)].cpu().clone()
        rival_tokens = [token_texts(ids, processor) for ids in rival_ids]
    if layer_attr is not None and layout.placeless.numel():
        layer_attr = layer_attr[..., layout.placed]
    assert every_token is not None
    token_attr = every_token[:, layout.placed]
    asked: Any = prompt.inp
    images, inp = _pictured(asked, layout)
    return VLMAttributionResult(
        output_tokens=answer.texts,
        answer=answer.answer,
        question=asked.question if isinstance(asked, ImagePromptInput) else None,
        target_ids=answer.ids,
        special_tokens=answer.special,
        word_starts=answer.word_starts,
        token_attr=token_attr,
        seq_attr=sequence_attribution(
            token_attr,
            torch.ones(len(token_attr)) if weights is None else weights,
            normalize=normalize,
            is_part=earlier_ids is not None,
        ).float(),
        placeless_attr=every_token[:, layout.placeless],
        token_weights=weights,
        token_log_probs=log_probs,
        convergence_delta=of_answer("convergence_delta"),
        head_weights=of_answer("head_weights"),
        layer_attr=layer_attr,
        layer_indices=explained.layer_indices,
        rival_ids=rival_ids,
        rival_tokens=rival_tokens,
        layout=layout,
        images=images,
        inp=inp,
        method=method,
        verification=verification,
    )


def _pictured(
    inp: Any, layout: ImageLayout
) -> tuple[list[Image.Image], ImageTokenInput | None]:
    """The original images, and an input whose features are the result's columns.

    It has no ``processor_fn``, which may refer to the model.
    """
    if isinstance(inp, ImageTokenInput):
        images = inp.images
        if inp.layout == layout:
            return images, inp.without_processor()
        # Other places were given to attribute().
        return images, ImageTokenInput(images, layout) if layout.is_located else None
    if not isinstance(inp, ImageMaskInput):
        return [], None
    image = _as_processed(inp)
    if layout.boxes() is None:
        return [image], None
    return [image], ImageTokenInput([image], layout, baseline=inp.baseline)


def _as_processed(inp: ImageMaskInput) -> Image.Image:
    """The image as its processor sees it: in RGB, on the processor's background, and
    not rotated, since the processor ignores the EXIF tag too."""
    image: Image.Image
    try:
        (image,) = rgb_as_processed(
            [inp.image], lambda images: inp.processor_fn(*images)
        )
    except Exception:  # processors raise what they like
        # The answer has been explained: only its picture is not known exactly.
        image = inp.image.convert("RGB")
    return image
