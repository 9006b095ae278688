"""Character classes of regular expressions as the tokenizers library reads them (Oniguruma)."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from functools import cache

#: Marks a letter that is to be replaced; a noncharacter, which no text has any business to hold.
MARKER = "\ufdd0"
#: Longest part of a word that is looked at on each side of a letter, so that time stays linear in the text.
REACH = 40


@cache
def characters() -> tuple[str, ...]:
    """Return every assigned character beyond ASCII."""
    every = map(chr, range(128, sys.maxunicode + 1))
    return tuple(letter for letter in every if unicodedata.category(letter) not in ("Cn", "Cs", "Co"))


def members(letters: Iterable[str]) -> str:
    """Return what stands between the brackets of a class that holds these characters."""
    codes = sorted({ord(letter) for letter in letters})
    parts: list[str] = []
    start = 0
    for at, code in enumerate(codes):
        if at + 1 == len(codes) or codes[at + 1] != code + 1:
            first = f"\\x{{{codes[start]:x}}}"
            parts.append(first if start == at else f"{first}-\\x{{{code:x}}}")
            start = at + 1
    return "".join(parts)
