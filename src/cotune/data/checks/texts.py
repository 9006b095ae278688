"""What the texts of a table are like: how long, in which scripts, in which languages."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cotune.data.duplicates import text_key
from cotune.data.tables.cells import has_text

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGES_AT_MOST = 20_000
"""Texts whose language and script are looked at; of more, as many evenly spread ones."""
FEWEST_LETTERS = 20
"""Letters under which no language is named; of so few, a detector guesses."""
LEAST_CONFIDENCE = 0.5
#: Characters of a text that tell its language and script.
_ENOUGH = 20_000
_BINS = 24
#: ISO 639-1 codes in words; others are shown by their code.
_NAMES = {
    "af": "Afrikaans", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "la": "Latin",
    "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "mt": "Maltese", "nl": "Dutch", "no": "Norwegian",
    "nb": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "th": "Thai",
    "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
    "ht": "Haitian", "pcm": "Nigerian Pidgin",
}  # fmt: skip
_SCRIPTS = {"CJK": "Han", "IDEOGRAPHIC": "Han", "FULLWIDTH": "Latin", "HALFWIDTH": "Katakana", "MODIFIER": "Latin",
            "FEMININE": "Latin", "MASCULINE": "Latin", "MATHEMATICAL": "Latin", "MICRO": "Greek"}  # fmt: skip


@dataclass(frozen=True)
class TextSummary:
    """What the texts of one field are like.

    Attributes
    ----------
    name : str
        The field.
    texts : int
        Posts with a text that can be seen.
    median, p95, longest : int
        Characters: the median, the 95th percentile and the most.
    bins : list of (int, int)
        First number of characters of each bar of a histogram, and how many texts it has; the last one is open.
    looked_at : int
        Texts whose script and language were looked at.
    scripts : dict
        How many of them are mostly in each script; "no letters" for emoji, numbers and signs alone.
    languages : dict or None
        How many of them are in each language, "too short to tell" and "unclear" included; None where no detector is
        installed.
    """

    name: str
    texts: int
    median: int = 0
    p95: int = 0
    longest: int = 0
    bins: list[tuple[int, int]] = field(default_factory=list)
    looked_at: int = 0
    scripts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] | None = None


def summarise_texts(name: str, texts: Sequence[str | None]) -> TextSummary:
    """Return what the texts of the field `name` are like.

    Languages are named by py3langid (extra ``clean``), which works offline, on texts without links and @mentions.
    """
    there = [text for text in texts if text is not None and has_text(text)]
    if not there:
        return TextSummary(name, 0)
    lengths = np.asarray([len(text) for text in there])
    median, p95 = (int(value) for value in np.percentile(lengths, [50, 95]))
    step = max(1, -(-len(there) // LANGUAGES_AT_MOST))
    some = [text_key(text[:_ENOUGH]) for text in there[::step]]
    return TextSummary(
        name,
        len(there),
        median,
        p95,
        int(lengths.max()),
        _histogram(lengths, p95),
        len(some),
        _ranked(Counter(map(script, some))),
        _languages(some),
    )


def script(text: str) -> str:
    """Return the script that most letters of a text are in, such as "Latin"; "no letters" where it has none."""
    found = Counter(_script_of(letter) for letter in text if letter.isalpha())
    return found.most_common(1)[0][0] if found else "no letters"


@lru_cache(maxsize=8192)
def _script_of(letter: str) -> str:
    """Return the script of a letter by its name in Unicode, which begins with it."""
    first = unicodedata.name(letter, "UNKNOWN").partition(" ")[0].partition("-")[0]
    return _SCRIPTS.get(first, first.capitalize())


def _languages(texts: Sequence[str]) -> dict[str, int] | None:
    detector = _detector()
    if detector is None:
        return None
    found: Counter[str] = Counter()
    for text in texts:
        if sum(letter.isalpha() for letter in text) < FEWEST_LETTERS:
            found["too short to tell"] += 1
            continue
        code, confidence = detector.classify(text)
        found[_NAMES.get(code, code) if confidence >= LEAST_CONFIDENCE else "unclear"] += 1
    return _ranked(found)


@cache
def _detector() -> LanguageIdentifier | None:
    """Open the model that lies in the package; no network, no pickle."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _ranked(found: Counter[str]) -> dict[str, int]:
    return dict(found.most_common())


def _histogram(lengths: np.ndarray, p95: int) -> list[tuple[int, int]]:
    """Return bars of equal, round width up to the 95th percentile, and one for all that is longer."""
    width = next(w for w in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**4, 10**5, 10**9) if p95 < _BINS * w)
    places = np.minimum(lengths // width, p95 // width + 1)
    counts = np.bincount(places)
    return [(int(at * width), int(n)) for at, n in enumerate(counts)]
