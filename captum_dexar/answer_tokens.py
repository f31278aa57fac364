"""The text of an answer's tokens."""

from typing import Any

import torch
from torch import Tensor


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
