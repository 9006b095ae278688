"""Small files that unpack to very much: refused by name, in little memory."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from cotune.data.posts import read_posts
from cotune.data.tables import text
from cotune.errors import DataError

Write = Callable[[str, str], Path]


@pytest.fixture(params=["", ".gz"])
def write(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setattr(text, "MOST_LINE", 10_000)
    monkeypatch.setattr(text, "MOST_JSON", 50_000)

    def write(name: str, content: str) -> Path:
        path = tmp_path / (name + request.param)
        path.write_bytes(gzip.compress(content.encode()) if request.param else content.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_line_longer_than_any_post_is_refused(write: Write, name: str) -> None:
    start = '{"text": "' if name == "a.jsonl" else "id\ttext\n1\t" if name == "a.tsv" else "id,text\n1,"
    with pytest.raises(DataError, match=f"{name}.*line [12]: longer than 0 MB, as no post is"):
        read_posts(write(name, start + "x" * 20_000))


def test_an_array_may_stand_in_one_line_up_to_a_limit_of_its_own(write: Write) -> None:
    posts = "[" + ",".join('{"text": "hello"}' for _ in range(1_000)) + "]"
    assert len(read_posts(write("a.json", posts))) == 1_000
    with pytest.raises(DataError, match=r"a\.json.*longer than 0 MB"):
        read_posts(write("a.json", posts * 3))
    with pytest.raises(DataError, match=r"a\.json.*read whole; save it as \.jsonl"):
        read_posts(write("a.json", "[" + '{"text": "hello"},\n' * 5_000))


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.csv.*record at line 2: field larger than field limit"):
        read_posts(write("a.csv", 'id,text\n1,"' + "hello\n" * 5_000))


def test_blank_lines_before_the_header(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    posts = read_posts(write("a.csv", "\n" * 100_000 + "id,text\n1,a\n"))
    assert posts["text"].tolist() == ["a"]
    with pytest.raises(DataError, match="line 100003: 1 of 2 fields"):
        read_posts(write("a.csv", "\n" * 100_000 + "id,text\n1,a\nb\n"))
    monkeypatch.setattr(text, "MOST_BLANK", 1_000)
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(DataError, match="line 1001: more than 1,000 blank lines in a row"):
            read_posts(write(name, "\n" * 2_000))
