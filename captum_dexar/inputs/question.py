"""Which tokens of a prompt are the user's own words, and not the template's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from captum_dexar.inputs.messages import Conversation

# Roles whose texts a chat is about; the others instruct the model.
_SPEAKERS = ("user", "assistant")


def asked_texts(asked: str | Conversation, placeholder: str) -> tuple[str, ...] | None:
    """The texts of a prompt that are the user's or the assistant's.

    Args:
        asked (str or Conversation): what the user gave as the prompt
        placeholder (str): the image placeholder, may be empty

    Returns:
        tuple of str, or None if the user gave a complete prompt, in which the words are
        not told from the template.
    """
    if isinstance(asked, Conversation):
        return tuple(
            text
            for message in asked.messages
            if message["role"] in _SPEAKERS
            for text in _texts(message["content"])
        )
    has_placeholder = bool(placeholder) and placeholder in asked
    return None if has_placeholder else (asked,)


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]


def positions_of_texts(
    ids: Sequence[int],
    texts: Sequence[str],
    tokenizer: Any,
    after: int = 0,
) -> list[int] | None:
    """Where some texts stand among the tokens of a prompt.

    A tokenizer may split a text otherwise inside a prompt than by itself, so decoded
    texts are compared, without white space.

    Args:
        ids (sequence of int): the prompt's text tokens, without image tokens
        texts (sequence of str): the texts
        tokenizer (Any): what made the ids
        after (int, optional): where a text that stands several times is first looked
            for: at this position and behind it. Default: 0

    Returns:
        list of int, positions in ``ids`` in ascending order; None if a text is not
        found.
    """

    def decoded(some: Sequence[int]) -> str:
        text = tokenizer.decode(
            list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return "".join(text.split())

    found: set[int] = set()
    for text in texts:
        # As the tokenizer knows it: in lower case, say, or with unknown words.
        wanted = decoded(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not wanted:
            continue
        first = next(
            (start for start in (after, 0) if wanted in decoded(ids[start:])), None
        )
        if first is None:
            return None

        def reaches(end: int, start: int = first, wanted: str = wanted) -> bool:
            return wanted in decoded(ids[start:end])

        stop = bisect_left(range(len(ids) + 1), True, lo=first, key=reaches)

        def is_short(start: int, stop: int = stop, wanted: str = wanted) -> bool:
            return wanted not in decoded(ids[start:stop])

        # The first start with which the text is cut off.
        cut = bisect_left(range(stop + 1), True, lo=first, key=is_short)
        found.update(range(cut - 1, stop))
    return sorted(found)
