"""Letters that look like others: styled forms of Latin letters, and letters of another script within a word.

The data is that of Unicode (UTS #39), which the package disarm brings. A word is written in one script: of a word
in two, the letters of one are replaced by those of the other that they look like, if every one of them has such. Words
that are all of one script stay what they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from cotune.encoders.normalizers.classes import MARKER, REACH, characters, members
from cotune.errors import ConfigError

_WORD = r"[\p{L}\p{M}\p{N}]"
_NAMED = re.compile(
    r"(?:(?:NEGATIVE )?(?:SQUARED|CIRCLED)(?: LATIN CAPITAL LETTER)|LATIN LETTER SMALL CAPITAL) ([A-Z])"
)
_CURRENCIES = "\u00a2\u00a3\u00a5\u20ac"  # written beside letters: 5k\u20ac
# Symbols of phonetics: Latin letters, of which ordinary words have none.
_PHONETIC = ((0x0250, 0x02AF), (0x1D00, 0x1DBF))


def confusable_steps() -> list[Any]:
    """Return what replaces lookalike letters, as normalizers of the tokenizers library.

    Raises
    ------
    ConfigError
        If disarm is not installed.
    """
    look = need_disarm().normalize_confusables
    styled, latin = _styled(), _lookalikes(look)
    there = {letter: look(letter, target_script="cyrillic") for letter in map(chr, range(65, 123))}
    cyrillic = {letter: found for letter, found in there.items() if found != letter and len(found) == 1}
    style, like = members(styled), members(latin)
    ordinary = rf"[[\p{{Latin}}{style}]&&[^{like}]]"
    foreign = rf"[\p{{L}}&&[^\p{{Latin}}\p{{Common}}{style}{like}]]"
    to_latin = (
        rf"(?=[{style}])(?:(?<=[\p{{Latin}}{style}])|(?=.[\p{{Latin}}{style}]))",
        _in_word(like, beside=ordinary, without=foreign),
    )
    to_cyrillic = (_in_word(members(cyrillic), beside=r"\p{Cyrillic}",
                            without=rf"[\p{{Latin}}&&[^{members(cyrillic)}]]"),)  # fmt: skip
    return [*replace_marked(to_latin, {**latin, **styled}), *replace_marked(to_cyrillic, cyrillic)]


def _in_word(letters: str, *, beside: str, without: str) -> str:
    """Return what matches before each of `letters` in a word that has some `beside` and is `without` others."""
    rest = rf"{_WORD}{{0,{REACH}}}"
    return rf"(?=[{letters}])(?<!{without}{rest})(?!{rest}{without})(?:(?<={beside}{rest})|(?={rest}{beside}))"


def replace_marked(places: Iterable[str], letters: Mapping[str, str]) -> list[Any]:
    """Return steps that replace letters where one of `places` matches before them.

    All places are found before the first letter is replaced, since each depends on the letters around it.

    Parameters
    ----------
    places : iterable of str
        Regular expressions that match nothing but a place.
    letters : mapping
        What each letter is replaced by.
    """
    from tokenizers import Regex, normalizers

    sources = defaultdict(list)
    for letter, target in letters.items():
        sources[target].append(letter)
    return [
        normalizers.Replace(Regex("|".join(places)), MARKER),
        *(normalizers.Replace(Regex(f"{MARKER}[{members(found)}]"), target) for target, found in sources.items()),
        normalizers.Replace(MARKER, ""),
    ]


def _styled() -> dict[str, str]:
    """Return bold, script, circled, full-width, small capital and such forms, and the ASCII letter or digit of each."""
    found = {}
    for letter in characters():
        kind = unicodedata.category(letter)
        plain = unicodedata.normalize("NFKC", letter)
        named = _NAMED.fullmatch(unicodedata.name(letter, ""))
        if named is not None:
            found[letter] = named[1].lower() if kind == "Ll" else named[1]
        # What stands above the line in "1st" in Latin-1 and superscript numbers say something of their own.
        elif plain.isascii() and len(plain) == 1 and plain.isalnum() and kind != "No" and ord(letter) > 255:
            found[letter] = plain
    return found


def _lookalikes(look: Any) -> dict[str, str]:
    """Return letters of other scripts, of phonetics and signs of currencies that look like one of ASCII, and which."""
    found = {}
    for letter in characters():
        name, kind = unicodedata.name(letter, ""), unicodedata.category(letter)
        phonetic = any(low <= ord(letter) <= high for low, high in _PHONETIC)
        if not (kind[0] == "L" or (kind == "Sc" and letter not in _CURRENCIES)) or name.startswith(("CJK", "MICRO")):
            continue
        if (name.startswith("LATIN") and not phonetic) or unicodedata.normalize("NFKC", letter).isascii():
            continue
        base = unicodedata.normalize("NFD", letter)[0]  # of a letter with an accent, the letter
        plain = next((each for each in map(look, (letter, base)) if len(each) == 1 and each.isascii()), "")
        if plain.isalpha():
            found[letter] = plain
    return found


def need_disarm() -> Any:
    """Return the package that has Unicode's table of lookalikes.

    Raises
    ------
    ConfigError
        If it is not installed; the text names the extra that brings it.
    """
    try:
        import disarm
    except ImportError:
        raise ConfigError(
            "normalize-text confusables needs disarm, which has the data of Unicode; install it with: "
            "pip install 'cotune[evasion]'"
        ) from None
    return disarm
