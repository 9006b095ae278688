"""Normal forms are those of Unicode, and marks that pile up take no longer than other characters."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.data.normal_forms import _HIDDEN_MARKS, normalized
from cotune.data.tables.cells import clean_text

MARKS = "\u0300\u0315\u0327\u0344\u3099\u0489" + _HIDDEN_MARKS
PILES = st.lists(st.one_of(st.text(st.sampled_from(MARKS), max_size=150), st.text(max_size=5)), max_size=4).map("".join)


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@given(text=PILES)
def test_it_is_what_unicode_says(form: str, text: str) -> None:
    assert normalized(text, form) == unicodedata.normalize(form, text)


def test_all_characters_that_come_apart_into_marks_are_known() -> None:
    letters = (chr(point) for point in range(0x80, sys.maxunicode + 1) if not unicodedata.combining(chr(point)))
    found = [char for char in letters if all(map(unicodedata.combining, unicodedata.normalize("NFKD", char)))]
    assert "".join(found) == _HIDDEN_MARKS


@pytest.mark.parametrize("pair", ["\u0315\u0300", "\u0f73\u0300", "\uff9e\u0315"])
def test_a_hundred_thousand_marks_take_no_minute(pair: str) -> None:
    started = time.perf_counter()
    found = normalized("a" + pair * 50_000, "NFKC")
    assert time.perf_counter() - started < 20
    assert len(found) >= 50_000
    assert clean_text(found) == unicodedata.normalize("NFC", found)
