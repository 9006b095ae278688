"""Digits and signs that stand for letters within a Latin word: h4te, $hit, n00b.

Numbers, ordinals, names such as mp3 or covid19, links, mentions and e-mail addresses stay as they are.
"""

from __future__ import annotations

from typing import Any

from cotune.encoders.normalizers.confusables import replace_marked

LETTERS = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "9": "g", "@": "a", "$": "s", "\u20ac": "e"}

_L, _SMALL = r"\p{Latin}", r"[\p{Latin}&&\p{Ll}]"
_D, _DIGIT = "[0134579@$\u20ac]", "[0134579]"
_INNER = "[0134579$\u20ac]"
_WORD = r"[\p{L}\p{M}\p{N}]"
_START = r"(?:^|\W)"
_GUARDS = (
    # Links and mentions are names, not words; so are addresses.
    r"(?<!https?://\S{0,80}|www\.\S{0,80}|(?:^|\W)[@\x{ff20}]\w{0,40})",
    r"(?![\w.+-]{0,40}@[\w-]{1,40}\.\p{L})(?!(?<=\w@[\w-]{0,40})[\w-]{0,40}\.\p{L})",
    # Digits in a row are a number, unless there are two and they are the same.
    r"(?:(?![0-9])|(?<!\p{N})(?!\p{N}{2})|(?<!\p{N})(?=(?<a>[0-9])\k<a>(?!\p{N}))"
    r"|(?<=(?:^|\P{N})(?<b>[0-9]))(?=\k<b>(?!\p{N})))",
    # iPhone5s, Run4Life, PS4pro, like4like, f4f
    rf"(?!5s(?!\w))(?!(?<={_SMALL})4\p{{Lu}})(?!(?<=\p{{Lu}}{{2}})[0-9]\p{{Ll}})",
    rf"(?!(?<={_L}{{4}})4{_L}{{4}})(?!(?<=(?<c>{_L}))4\k<c>(?!\w))",
)
_PLACES = (
    # Between letters, in a word that has three: h4te, n1gger, a$shole.
    rf"(?={_INNER}{_D}{{0,2}}{_L})(?<={_L}{_D}{{0,2}}{_L}{_D}{{0,2}})",
    rf"(?={_INNER}{_D}{{0,2}}{_L}{_D}{{0,2}}{_L})(?<={_L}{_D}{{0,2}})",
    # Twice, or a vowel between two small letters: l33t, s3x.
    rf"(?<={_L})(?=(?<d>[0134])\k<d>{_L})|(?<={_L}(?<e>[0134]))(?=\k<e>{_L})",
    rf"(?<={_START}{_SMALL})(?=[0134]{_SMALL}(?!\w))",
    # Two of them that differ: h4t3; not h1n1.
    rf"(?<={_START}{_L})(?=(?<f>{_DIGIT}){_L}(?!\k<f>){_DIGIT}(?!\w))",
    rf"(?<={_START}{_L}(?<g>{_DIGIT}){_L})(?=(?!\k<g>){_DIGIT}(?!\w))",
    # At the edge of a word that has one inside: 4ssh0le, l0v3rz, h4tr3d3.
    rf"(?<!{_WORD})(?={_DIGIT}{_L}{_WORD}{{0,30}}{_L}{_D}{{1,2}}{_L})",
    rf"(?<={_L}{_D}{{1,2}}{_L}{{2}}|{_L}{{2}}{_D}{{1,2}}{_L}|{_L}{_D}{{1,2}}{_L}{_WORD}{{1,30}}{_L})"
    rf"(?={_DIGIT}(?!{_WORD}))",
    # The sign of the dollar before small letters and behind them, unless a number follows: $hit, a$$.
    rf"(?<![\p{{L}}\p{{N}}$])(?=\$\$?{_SMALL}{{2}})|(?<=(?:^|[^\p{{L}}\p{{N}}$])\$)(?=\${_SMALL}{{2}})",
    rf"(?<={_SMALL}\$?)(?=\$(?!\$?\p{{N}}))",
    # A few letters before an at sign: b@stard; lunch@work stays.
    rf"(?<={_START}{_L}{{1,3}})(?=@{_L}{{2}})",
)


def leet_steps() -> list[Any]:
    """Return what reads digits and signs within words as letters, as normalizers of the tokenizers library."""
    return replace_marked([f"(?={_D}){''.join(_GUARDS)}(?:{'|'.join(_PLACES)})"], LETTERS)
