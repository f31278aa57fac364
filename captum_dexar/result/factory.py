"""Builds the result of an answer from raw attributions."""

from typing import Any

import torch
from captum.attr import ImageMaskInput
from captum_dexar.decoding import StepAttributions
from captum_dexar.inputs import ImageTokenInput, Prompt
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.methods.scoring import sequence_attribution
from captum_dexar.result.result import VLMAttributionResult
from PIL import Image
from torch import Tensor


def answer_result(
    prompt: Prompt,
    target_ids: Tensor,
    explained: StepAttributions,
    example: int = 0,
    *,
    processor: Any,
    method: str,
    normalize: bool,
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
    """

    def of_answer(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[example, : len(target_ids)].cpu()

    layout = prompt.layout if explained.layout is None else explained.layout
    answer = AnswerTokens(target_ids.cpu(), processor)
    every_token = of_answer(explained.token_attr)
    weights = of_answer(explained.token_weights)
    layer_attr = of_answer(explained.layer_attr)
    if layer_attr is not None and layout.placeless.numel():
        layer_attr = layer_attr[..., layout.placed]
    assert every_token is not None
    token_attr = every_token[:, layout.placed]
    images, inp = _pictured(prompt.inp, layout)
    return VLMAttributionResult(
        output_tokens=answer.texts,
        target_ids=answer.ids,
        special_tokens=answer.special,
        word_starts=answer.word_starts,
        token_attr=token_attr,
        seq_attr=sequence_attribution(
            token_attr,
            torch.ones(len(token_attr)) if weights is None else weights,
            normalize=normalize,
        ).float(),
        placeless_attr=every_token[:, layout.placeless],
        token_weights=weights,
        token_log_probs=of_answer(explained.token_log_probs),
        convergence_delta=of_answer(explained.convergence_delta),
        head_weights=of_answer(explained.head_weights),
        layer_attr=layer_attr,
        layer_indices=explained.layer_indices,
        layout=layout,
        images=images,
        inp=inp,
        method=method,
    )


def _pictured(
    inp: Any, layout: ImageLayout
) -> tuple[list[Image.Image], ImageTokenInput | None]:
    """The original images, and an input whose features are the result's columns."""
    if isinstance(inp, ImageTokenInput):
        return inp.images, inp
    if not isinstance(inp, ImageMaskInput):
        return [], None
    # Not rotated: the processor ignores the EXIF tag too.
    image = inp.image.convert("RGB")
    if layout.boxes() is None:
        return [image], None
    columns = ImageTokenInput(
        [image],
        layout,
        inp.processor_fn,
        baseline=inp.baseline,
        model_inputs=inp.original_model_inputs,
    )
    return [image], columns


class AnswerTokens:
    """Each token of an answer as text, and where words begin.

    Args:
        ids (Tensor): vocabulary ids, ``(T,)``
        processor (ProcessorMixin or tokenizer, optional): decodes the ids. Without it a
            token's text is its id. Default: None

    Attributes:
        texts (list of str): the tokens' text, stripped
        special (Tensor): special tokens of the tokenizer, ``(T,)``, bool
        word_starts (Tensor): tokens that begin a word, ``(T,)``, bool
    """

    def __init__(self, ids: Tensor, processor: Any = None) -> None:
        self.ids = ids
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer is None:
            self.texts = [str(token) for token in ids.tolist()]
            self.special = torch.zeros(len(ids), dtype=torch.bool)
            self.word_starts = torch.ones(len(ids), dtype=torch.bool)
            return
        special_ids = set(tokenizer.all_special_ids)
        pieces = _pieces(ids, tokenizer)
        is_special = [token in special_ids for token in ids.tolist()]
        follows_special = [True, *is_special[:-1]]
        self.texts = [piece.strip() for piece in pieces]
        self.special = torch.tensor(is_special)
        self.word_starts = torch.tensor(
            [
                alone or after or piece[:1].isspace()
                for piece, alone, after in zip(pieces, is_special, follows_special)
            ]
        )


def _pieces(ids: Tensor, tokenizer: Any) -> list[str]:
    """The text that each token adds, with spaces; empty for an incomplete character."""
    pieces: list[str] = []
    known = ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            pieces.append("")
            continue
        pieces.append(text[len(known) :])
        known = text
    return pieces
