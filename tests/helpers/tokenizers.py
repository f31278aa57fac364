"""Tokenizers whose tokens may end within a character, built here."""

from tokenizers import AddedToken, decoders, models, pre_tokenizers, Tokenizer
from transformers import PreTrainedTokenizerFast

END = "</s>"


def byte_level(*merged: str) -> PreTrainedTokenizerFast:
    """A token per byte, as of GPT-2 and Qwen, and one for each of the merged texts."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END: 0, **{letter: i for i, letter in enumerate(letters, 1)}}
    merges: list[tuple[str, str]] = []
    as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in merged:
        ((spelled, _),) = as_letters.pre_tokenize_str(text)
        for end in range(2, len(spelled) + 1):
            pair = (spelled[: end - 1], spelled[end - 1])
            if pair not in merges:
                merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = as_letters
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer)


def sentence_piece(*merged: str) -> PreTrainedTokenizerFast:
    """Words with their blank before them, as of Llama, and bytes for the rest."""
    vocabulary = {END: 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for letter in ["▁", *map(chr, range(33, 127)), *"".join(merged)]:
        if letter != " ":
            vocabulary.setdefault(letter, len(vocabulary))
    merges = []
    for text in merged:
        spelled = text.replace(" ", "▁")
        for end in range(2, len(spelled) + 1):
            pair = (spelled[: end - 1], spelled[end - 1])
            if pair not in merges:
                merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
