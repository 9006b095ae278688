"""A text of characters that nobody can see counts as no text, everywhere."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from cotune.data.checks.quality import check_posts
from cotune.data.duplicates import near_duplicate_groups, text_key
from cotune.data.posts import has_text, read_posts
from cotune.predict import Predictor
from runs import tiny_fit
from tiny import Zoo, make_posts

INVISIBLE = {
    "zero-width space": "\u200b", "variation selector": "\ufe0f", "byte order mark": "\ufeff", "soft hyphen": "\xad",
    "joiners": "\u200c\u200d\u2060", "direction marks": "\u200e\u200f\u202a\u202c\u2066\u2069", "no-break spaces": "\xa0\u202f\u3000",
    "Hangul fillers": "\u115f\u1160\u3164\uffa0", "empty braille": "\u2800", "grapheme joiner": "\u034f",
    "language tags": "\U000e0001\U000e0041", "selectors supplement": "\U000e0100", "controls": "\x00\x07\x1b\x7f\x85",
    "line separators": "\u2028\u2029\n\r", "mixed": " \u200b\ufe0f\n\xad\ufeff ",
}  # fmt: skip


@pytest.mark.parametrize("name", INVISIBLE)
def test_it_is_no_text(name: str) -> None:
    assert not has_text(INVISIBLE[name])
    assert text_key(INVISIBLE[name]) == ""
    assert has_text(f"{INVISIBLE[name]}a")
    assert has_text(f"a{INVISIBLE[name] * 5000}")
    assert has_text(f"{INVISIBLE[name] * 5000}a")


@pytest.mark.parametrize(
    "text",
    ["a", "é", "e\u0301", "❤\ufe0f", "👨\u200d👩\u200d👧", "ש", "\u0e01", "中", ".", "\ufffd", "1\ufe0f\u20e3", "ﷺ"],
)
def test_what_can_be_seen_is_text(text: str) -> None:
    assert has_text(text)


def test_no_letter_digit_or_sign_of_unicode_is_taken_for_invisible() -> None:
    fillers = {0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800}
    for code in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        if kind[0] in "LNPS" and code not in fillers:
            assert has_text(chr(code)), hex(code)


def test_format_characters_of_unicode_are_invisible() -> None:
    shaped = {
        *range(0x600, 0x606),
        0x06DD,
        0x070F,
        0x0890,
        0x0891,
        0x08E2,
        0x110BD,
        0x110CD,
    }  # signs that go around numbers
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cf", "Zs", "Zl", "Zp", "Cc") and code not in shaped:
            plain = code in range(0x13430, 0x13440) or code in range(
                0x1BCA0, 0x1BCA4
            )  # joiners within scripts of their own
            assert plain or not has_text(chr(code)), hex(code)


def test_check_counts_them_as_posts_without_text_and_not_as_duplicates() -> None:
    posts = read_posts(pd.DataFrame({"text": ["\u200b", "\u200b", "\ufe0f", "words"], "label": list("xyxy")}))
    report = check_posts(posts)
    assert report.without_both == [1, 2, 3]
    assert report.duplicates == []
    assert near_duplicate_groups(posts).tolist() == [0, 1, 2, 3]


def test_predict_treats_them_as_missing(zoo: Zoo, tmp_path: Path) -> None:
    predictor = Predictor(tiny_fit(zoo, tmp_path, tune="frozen").run, device="cpu")
    posts = make_posts(tmp_path / "new", 3, gaps=False)
    posts["text"] = [None, "\u200b\ufe0f", " "]
    posts["image"] = posts["image"].iloc[0]
    posts.loc[3] = {**posts.loc[1].to_dict(), "image": None}
    table = predictor.frame(posts)
    assert table["text_share"][:3].tolist() == [0, 0, 0]
    assert table["p_class0"][:3].nunique() == 1
    assert "no text" in table["error"][3]
