"""The tokens of an answer as text."""

from collections.abc import Sequence
from typing import Any

import torch
from captum_dexar.result.words import begins_word
from torch import Tensor

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class AnswerTokens:
    """Each token of an answer as text, and where words begin.

    Everything about a token follows from the tokens up to it, so a token of a stream
    has the same text and word start as in the whole answer.

    Args:
        ids (Tensor): vocabulary ids, ``(T,)``
        processor (ProcessorMixin or tokenizer, optional): decodes the ids. Without it a
            token's text is its id. Default: None
        earlier_ids (Tensor, optional): the streamed tokens before ``ids``, ``(S,)``.
            Default: None, ``ids`` are the whole answer

    Attributes:
        texts (list of str): the text that each token adds, stripped unless it is only
            white space. A token that ends within a character adds nothing; the token
            that completes the character adds the whole of it.
        special (Tensor): special tokens of the tokenizer, ``(T,)``, bool
        word_starts (Tensor): tokens whose first complete character begins a word,
            ``(T,)``, bool
        answer (str): the whole answer as the tokenizer decodes it, without special
            tokens; of streamed tokens, the text that they add to it
    """

    def __init__(
        self, ids: Tensor, processor: Any = None, earlier_ids: Tensor | None = None
    ) -> None:
        self.ids = ids
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer is None:
            self.texts = [str(token) for token in ids.tolist()]
            self.special = torch.zeros(len(ids), dtype=torch.bool)
            self.word_starts = torch.ones(len(ids), dtype=torch.bool)
            self.answer = " ".join(self.texts)
            return
        earlier = [] if earlier_ids is None else earlier_ids.tolist()
        text = _Text([*earlier, *ids.tolist()], tokenizer)
        tokens = range(len(earlier), len(text.ids))
        self.special = torch.tensor([text.is_special(token) for token in tokens])
        self.texts, starts = [], []
        known = text.complete_before(len(earlier))
        for token in tokens:
            whole = text.up_to(token + 1)
            place = len(whole) if whole.endswith(_INCOMPLETE) else len(known)
            piece = whole[place:]
            if text.is_special(token):
                piece = text.of(token)
            starts.append(
                token == 0
                or text.is_special(token)
                or text.is_special(token - 1)
                or begins_word(whole, place)
            )
            self.texts.append(piece.strip() or piece)
            known = whole if piece else known
        self.word_starts = torch.tensor(starts)
        if earlier_ids is None:
            self.answer = text.shown(len(text.ids))
        else:
            self.answer = text.added_since(len(earlier))


def token_texts(ids: Tensor, processor: Any = None) -> list[str]:
    """The text of each token by itself, stripped unless it is only white space.

    Args:
        ids (Tensor): vocabulary ids, ``(tokens,)``
        processor (ProcessorMixin or tokenizer, optional): decodes the ids. Without it a
            token's text is its id. Default: None
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        return [str(token) for token in ids.tolist()]
    texts = [
        tokenizer.decode([token], clean_up_tokenization_spaces=False)
        for token in ids.tolist()
    ]
    return [text.strip() or text for text in texts]


class _Text:
    """The decoded text of prefixes of an answer."""

    def __init__(self, ids: Sequence[int], tokenizer: Any) -> None:
        self.ids = ids
        self._tokenizer = tokenizer
        self._special_ids = set(tokenizer.all_special_ids)

    def is_special(self, token: int) -> bool:
        return self.ids[token] in self._special_ids

    def of(self, token: int) -> str:
        """The text of one token by itself."""
        return self._decoded([self.ids[token]])

    def up_to(self, end: int) -> str:
        """The text of the first tokens, special ones included, with all blanks."""
        return self._decoded(self.ids[:end])

    def shown(self, end: int) -> str:
        """The text of the first tokens, without special ones."""
        text: str = self._tokenizer.decode(self.ids[:end], skip_special_tokens=True)
        return text

    def complete_before(self, end: int) -> str:
        """The text of the first tokens, up to the last complete character."""
        return self.up_to(self._complete(end))

    def added_since(self, end: int) -> str:
        """The text that tokens from ``end`` on add to that of the tokens before."""
        if not self._is_complete(len(self.ids)):
            return ""
        return self.shown(len(self.ids))[len(self.shown(self._complete(end))) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    def _complete(self, end: int) -> int:
        while not self._is_complete(end):
            end -= 1
        return end

    def _is_complete(self, end: int) -> bool:
        return end == 0 or not self.up_to(end).endswith(_INCOMPLETE)
