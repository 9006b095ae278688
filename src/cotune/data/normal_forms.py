"""Unicode's normal forms in a time that grows with the length of a text alone."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache
from itertools import groupby
from typing import Literal

#: Marks in a row from which on they are brought into order here; no word of any language has as many.
_MANY = 64
#: Characters that count as letters, but come apart into marks alone.
_HIDDEN_MARKS = "\u0f73\u0f75\u0f81\uff9e\uff9f"


def normalized(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """Return `text` as :func:`unicodedata.normalize` does.

    That brings the marks behind a letter into order one by one, in a time that grows with the square of their number:
    a hundred thousand of them take a minute. Marks that are in order already take none.
    """
    if text.isascii():
        return text
    if len(text) > _MANY:
        text = _runs().sub(lambda run: _in_order(run.group(), form), text)
    return unicodedata.normalize(form, text)


@cache
def _runs() -> re.Pattern[str]:
    """Return what finds long rows of marks."""
    points = [point for point in range(0x300, sys.maxunicode + 1) if unicodedata.combining(chr(point))]
    return re.compile(f"[{''.join(map(chr, points))}{_HIDDEN_MARKS}]{{{_MANY},}}")


def _in_order(run: str, form: Literal["NFC", "NFKC"]) -> str:
    apart: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"
    marks = "".join(unicodedata.normalize(apart, mark) for mark in run)
    return "".join(
        char
        for is_mark, row in groupby(marks, key=lambda char: unicodedata.combining(char) > 0)
        for char in (sorted(row, key=unicodedata.combining) if is_mark else row)
    )
