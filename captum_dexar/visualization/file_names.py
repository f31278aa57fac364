"""File names from words, titles and whatever else a model or a user writes."""

import re
import unicodedata

LONGEST = 80
_FALLBACK = "unnamed"
# Names of devices on Windows, with any ending.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|clock\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.I
)


def file_name(text: str, longest: int = LONGEST) -> str:
    """A name that is valid for a file or folder on every system.

    Letters and digits of all scripts are kept, with ``-``, ``_`` and single dots
    inside; anything else becomes ``_``. Different texts may get the same name.

    Args:
        text (str): any text
        longest (int, optional): the largest number of bytes in UTF-8. Default: 80
    """
    composed = unicodedata.normalize("NFC", text[: 4 * longest])
    kept = "".join(one if _is_plain(one) else "_" for one in composed)
    name = _trimmed(re.sub(r"_{2,}", "_", re.sub(r"\.{2,}", ".", kept)))
    name = name.encode()[:longest].decode(errors="ignore")
    name = _trimmed(name)
    if _RESERVED.match(name):
        name = f"_{name}".encode()[:longest].decode(errors="ignore")
        name = name.rstrip(". ")
    return name or _FALLBACK


def _is_plain(character: str) -> bool:
    # Marks only join letters, which they may follow.
    return character in "-_." or unicodedata.category(character)[0] in "LNM"


def _trimmed(name: str) -> str:
    """Without what hides a file, looks like an option, or is dropped by Windows."""
    return name.lstrip("-._ ").rstrip("._ ")
