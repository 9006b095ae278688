"""Lengths, scripts and languages of texts."""

from __future__ import annotations

import sys

import pytest

from cotune.data.checks import texts
from cotune.data.checks.texts import script, summarise_texts


@pytest.mark.parametrize(
    ("text", "name"),
    [("What a day", "Latin"), ("Какой день", "Cyrillic"), ("مرحبا", "Arabic"), ("今日は良い", "Han"), ("\U0001f600 12!", "no letters"),
     ("ひらがな", "Hiragana"), ("", "no letters"), ("ａｂｃ", "Latin")],
)  # fmt: skip
def test_the_script_is_that_of_most_letters(text: str, name: str) -> None:
    assert script(text) == name


def test_languages_are_named_where_there_is_enough_to_tell() -> None:
    pytest.importorskip("py3langid", reason="languages are detected with the extra clean")
    found = summarise_texts(
        "text",
        ["The weather is lovely and we are going to the sea today", "Heute fahren wir alle zusammen ans Meer und baden",
         "http://t.co/abcdefghijklmnopqrstuvwxyz @somebody ok", None, "  "],
    )  # fmt: skip
    assert found.texts == 3
    assert found.languages == {"English": 1, "German": 1, "too short to tell": 1}


def test_without_a_detector_there_are_no_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    texts._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    found = summarise_texts("text", ["The weather is lovely and we are going to the sea today"])
    texts._detector.cache_clear()
    assert found.languages is None
    assert found.scripts == {"Latin": 1}


def test_lengths_in_bars_that_hold_every_text() -> None:
    lengths = [1, 5, 20, 21, 40, 300, 5_000]
    found = summarise_texts("text", ["x" * n for n in lengths] * 10)
    assert (found.texts, found.median, found.longest) == (70, 21, 5_000)
    assert sum(n for _, n in found.bins) == 70
    assert len(found.bins) <= 26
    starts = [start for start, _ in found.bins]
    assert len({b - a for a, b in zip(starts, starts[1:], strict=False)}) == 1
    assert summarise_texts("text", [None, ""]).bins == []


def test_of_very_many_texts_a_spread_of_them_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LANGUAGES_AT_MOST", 10)
    found = summarise_texts("text", ["words of a text"] * 95)
    assert found.looked_at == 10
    assert sum(found.scripts.values()) == 10
