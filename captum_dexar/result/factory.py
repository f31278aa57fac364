"""From attributions of an answer's tokens to its result."""

from collections.abc import Mapping
from typing import Any

import torch
from captum.attr import ImageMaskInput
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.inputs.image_tokens import ImageTokenInput
from captum_dexar.maps.layout import ImageLayout
from captum_dexar.methods import scoring
from captum_dexar.result.result import VLMAttributionResult
from torch import Tensor


def answer_result(
    inp: Any,
    layout: ImageLayout,
    target_ids: Tensor,
    every_token: Tensor,
    fields: Mapping[str, Any],
    *,
    processor: Any,
    method: str,
    normalize: bool,
) -> VLMAttributionResult:
    """The result of one answer.

    Args:
        inp (Any): the input, as the user gave it
        layout (ImageLayout): places of its image tokens
        target_ids (Tensor): the answer, ``(T,)``
        every_token (Tensor): attributions of all image tokens, ``(T, image tokens)``
        fields (Mapping): further fields of the result
        processor (ProcessorMixin or None): for the tokens' text
        method (str): the method's name
        normalize (bool): whether the sequence map sums normalised maps
    """
    answer = AnswerTokens(target_ids.cpu(), processor)
    token_attr = every_token[:, layout.placed]
    weights = fields.get("token_weights")
    return VLMAttributionResult(
        output_tokens=answer.texts,
        target_ids=answer.ids,
        special_tokens=answer.special,
        word_starts=answer.word_starts,
        token_attr=token_attr,
        seq_attr=scoring.sequence_attribution(
            token_attr,
            torch.ones(len(token_attr)) if weights is None else weights,
            normalize=normalize,
        ).float(),
        placeless_attr=every_token[:, layout.placeless],
        layout=layout,
        **_pictured(inp, layout),
        **fields,
        method=method,
    )


def fields_of(
    explained: StepAttributions, example: int, num_steps: int, layout: ImageLayout
) -> tuple[Tensor, dict[str, Any]]:
    """One example of a batch, on the CPU: attributions of all image tokens, ``(T, image
    tokens)``, and further fields of its result."""

    def of_example(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[example, :num_steps].cpu()

    layer_attr = of_example(explained.layer_attr)
    if layer_attr is not None and layout.placeless.numel():
        layer_attr = layer_attr[..., layout.placed]
    return explained.token_attr[example, :num_steps].cpu(), {
        "token_weights": of_example(explained.token_weights),
        "token_log_probs": of_example(explained.token_log_probs),
        "head_weights": of_example(explained.head_weights),
        "layer_attr": layer_attr,
        "layer_indices": explained.layer_indices,
    }


def _pictured(inp: Any, layout: ImageLayout) -> dict[str, Any]:
    """The image of an input, and the input whose features are our columns."""
    if isinstance(inp, ImageTokenInput):
        return {"inp": inp, "images": inp.images}
    if isinstance(inp, ImageMaskInput):
        # As the processor saw it: it does not turn images by their EXIF tag.
        image = inp.image.convert("RGB")
        if layout.boxes() is None:
            return {"images": [image]}
        columns = ImageTokenInput(
            [image],
            layout,
            inp.processor_fn,
            baseline=inp.baseline,
            model_inputs=inp.original_model_inputs,
        )
        return {"inp": columns, "images": [image]}
    return {}


class AnswerTokens:
    """Each token of an answer as text, and where words begin.

    The ids are decoded for showing only; they are never made from text again.

    Args:
        ids (Tensor): vocabulary ids, ``(T,)``
        processor (ProcessorMixin or tokenizer, optional): for decoding. Without it a
            token's text is its id. Default: None

    Attributes:
        ids (Tensor): vocabulary ids, ``(T,)``
        texts (list of str): the tokens' text, without spaces around it
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
    """What each token adds to the text, spaces kept.

    A token that is part of a character adds nothing until the character is whole.
    """
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
