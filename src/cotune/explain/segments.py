"""A text cut into words as a reader sees them, and the tokens that belong to each.

Tokenizers cut words into pieces, split hashtags and emoji, and know nothing of spaces in Thai or Chinese. Here
words are found in the text itself; tokens are assigned to them by the places that they were made from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cotune.encoders.text import TextEncoder

_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_KEYCAP = re.compile(r"[0-9#*]\ufe0f?\u20e3")
_JOINER = "\u200d"
#: Scripts that are written without spaces between words.
_SPACELESS = (
    (0x0E00, 0x0EFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x1A20, 0x1AAF), (0x3005, 0x3007), (0x3040, 0x30FF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA980, 0xA9DF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A stretch of a text: characters `start` up to `end`, and the positions of its tokens."""

    start: int
    end: int
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Segmented:
    """A text in words.

    Attributes
    ----------
    text : str
        The part of the text that the encoder reads.
    words : tuple of Span
        In order; together they hold every token that is no special token and no padding.
    n_tokens : int
        Number of tokens, special ones included.
    cut : int
        Number of characters at the end that the encoder does not read.
    """

    text: str
    words: tuple[Span, ...]
    n_tokens: int
    cut: int

    def word(self, index: int) -> str:
        """Return the word at `index`."""
        span = self.words[index]
        return self.text[span.start : span.end]

    def without(self, gone: Sequence[int]) -> str:
        """Return the text without the words at `gone`, and without the space that a lost word leaves."""
        removed = set(gone)
        parts, at = [], 0
        for i, span in enumerate(self.words):
            if i in removed:
                parts.append(self.text[at : span.start])
                at = span.end
                before = parts[-1][-1:] if parts[-1] else ""
                if before.isspace() and self.text[at : at + 1].isspace():
                    at += 1
        return "".join([*parts, self.text[at:]])


def segment(encoder: TextEncoder, text: str) -> Segmented:
    """Cut `text` into words and assign to each the tokens that `encoder` makes of it."""
    row = encoder.tokenize([text])[0]
    places = _places(encoder, text, row)
    spans = find_words(text, sorted({start for start, end in places.values() if end > start}))
    spans = _join(spans, places)
    owned: list[list[int]] = [[] for _ in spans]
    for token, (start, end) in places.items():
        owner = _owner(spans, start, end)
        if owner is not None:
            owned[owner].append(token)
    words = [Span(s, e, tuple(mine)) for (s, e), mine in zip(spans, owned, strict=True)]
    if not encoder.is_cut(text):
        return Segmented(text, tuple(words), len(row), 0)
    # Words behind the last token are not read; of a word cut in two the part that is read stays.
    read = max((end for _, end in places.values()), default=0)
    kept = tuple(Span(word.start, min(word.end, read), word.tokens) for word in words if word.start < read)
    return Segmented(text[:read], kept, len(row), len(text) - read)


def find_words(text: str, boundaries: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Return the words of `text` as pairs of start and end.

    Links, hashtags and mentions are whole, an emoji with all its modifiers is a word, a run of punctuation is
    a word (it may be a smiley). Scripts without spaces are cut at `boundaries`.

    Parameters
    ----------
    text : str
        Any text.
    boundaries : sequence of int
        Sorted places where tokens begin.
    """
    inner = set(boundaries)
    words: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = _word_end(text, at, inner)
        words.append((at, end))
        at = end
    return words


def _word_end(text: str, start: int, boundaries: set[int]) -> int:
    for pattern in (_LINK, _KEYCAP):
        found = pattern.match(text, start)
        if found:
            return found.end()
    kind = _kind(text[start])
    if kind == "emoji":
        return _emoji_end(text, start)
    if kind == "spaceless":
        end = start + 1
        while end < len(text) and _kind(text[end]) in ("spaceless", "mark") and end not in boundaries:
            end += 1
        return _with_marks(text, end)
    if text[start] in "#@\uff03\uff20" and start + 1 < len(text) and _kind(text[start + 1]) in ("letter", "spaceless"):
        end = start + 1
        while end < len(text) and _kind(text[end]) in ("letter", "spaceless", "mark"):
            end += 1
        return end
    if kind in ("letter", "mark"):
        end = start + 1
        while end < len(text) and (_kind(text[end]) in ("letter", "mark") or _links(text, end)):
            end += 1
        return end
    end = start + 1
    while end < len(text) and _kind(text[end]) == "other" and not _opens_tag(text, end):
        end += 1
    return _with_marks(text, end)


def _kind(char: str) -> str:
    if char.isspace():
        return "space"
    code = ord(char)
    category = unicodedata.category(char)
    if any(low <= code <= high for low, high in _SPACELESS) and category[0] in "LMN":
        return "spaceless"
    if category[0] == "M" or char == _JOINER:
        return "mark"
    if category[0] in "LN" or char == "_":
        return "letter"
    return "emoji" if category == "So" or 0x1F000 <= code <= 0x1FAFF else "other"


def _links(text: str, at: int) -> bool:
    """Tell whether an apostrophe or hyphen stands between letters."""
    return text[at] in "'\u2019-\u2010" and at + 1 < len(text) and _kind(text[at + 1]) == "letter"


def _opens_tag(text: str, at: int) -> bool:
    return text[at] in "#@" and at + 1 < len(text) and _kind(text[at + 1]) in ("letter", "spaceless")


def _with_marks(text: str, at: int) -> int:
    while at < len(text) and _kind(text[at]) == "mark":
        at += 1
    return at


def _emoji_end(text: str, start: int) -> int:
    at = start + 1
    if _flag(text[start]) and at < len(text) and _flag(text[at]):
        return _with_marks(text, at + 1)
    while at < len(text):
        code = ord(text[at])
        if 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F or unicodedata.category(text[at])[0] == "M":
            at += 1
        elif text[at] == _JOINER:
            at += 2 if at + 1 < len(text) and not text[at + 1].isspace() else 1
        else:
            break
    return min(at, len(text))


def _flag(char: str) -> bool:
    return 0x1F1E6 <= ord(char) <= 0x1F1FF


def _places(encoder: TextEncoder, text: str, row: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return, for every token that stands for text, the characters it was made from, without outer space."""
    tokenizer = encoder.tokenizer
    if getattr(tokenizer, "is_fast", False):
        found: Any = tokenizer(
            text,
            truncation=True,
            max_length=encoder.max_tokens,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        if list(found["input_ids"]) == row[: len(found["input_ids"])].tolist():
            special = found["special_tokens_mask"]
            pairs = [(i, *place) for i, place in enumerate(found["offset_mapping"]) if not special[i]]
            return {i: _trimmed(text, start, end) for i, start, end in pairs if end > start}
    return _places_by_prefixes(encoder, text, row)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end - 1 and text[start].isspace():
        start += 1
    while end - 1 > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _places_by_prefixes(encoder: TextEncoder, text: str, row: np.ndarray) -> dict[int, tuple[int, int]]:
    """Find places without the tokenizer's help: by how many tokens each longer beginning of the text has."""
    tokenizer = encoder.tokenizer
    special = set(getattr(tokenizer, "all_special_ids", []))
    unknown = getattr(tokenizer, "unk_token_id", None)
    real = [i for i, token in enumerate(row.tolist()) if token not in special or token == unknown]
    places: dict[int, tuple[int, int]] = {}
    done = 0
    for match in re.finditer(r"\S+", text):
        if done >= len(real):
            break
        whole = len(tokenizer(text[: match.end()], add_special_tokens=False)["input_ids"])
        for at in real[done : max(done, whole)]:
            places[at] = (match.start(), match.end())
        done = max(done, whole)
    return places


def _join(spans: list[tuple[int, int]], places: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """Make one word of those that share a token, as their parts in it cannot be told apart."""
    joined = list(spans)
    for start, end in sorted(set(places.values())):
        touched = [i for i, (s, e) in enumerate(joined) if s < end and start < e]
        if len(touched) > 1:
            first, last = touched[0], touched[-1]
            joined[first : last + 1] = [(joined[first][0], joined[last][1])]
    return joined


def _owner(spans: Sequence[tuple[int, int]], start: int, end: int) -> int | None:
    for i, (s, e) in enumerate(spans):
        if s < end and start < e:
            return i
    return None
