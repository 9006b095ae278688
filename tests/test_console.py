from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable

import pytest
from rich.console import Group

from cotune.console import open_console, show, tell, wrapped
from cotune.report.terminal import add_row, new_table

LONG = (
    "note: the file /a/very/long/path/that/nobody/may/cut/in/two.csv has words that are wrapped and a [bracket] :fire:"
)
Terminal = Callable[[int, Callable[[], None]], str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return what a function writes where both streams are a terminal of some width."""

    def run(columns: int, work: Callable[[], None]) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        monkeypatch.setattr("rich.console.os.get_terminal_size", lambda *_: os.terminal_size((columns, 30)))
        with os.fdopen(theirs, "w", encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            monkeypatch.setattr(sys, "stderr", stream)
            work()
            stream.flush()
            said = os.read(ours, 100_000).decode()
        os.close(ours)
        return said.replace("\r\n", "\n")

    return run


def table() -> object:
    made = new_table("A title that is wider than the columns of its table", "name", "value", "", right=("value",))
    add_row(made, "first [bold]", "1.5", "")
    add_row(made, "second", "22.5", "x" * 120)
    return made


def test_lines_are_wrapped_at_words_on_a_terminal_and_paths_stay_whole(terminal: Terminal) -> None:
    said = terminal(40, lambda: tell(LONG))
    lines = said.replace("\x1b[33m", "").replace("\x1b[0m", "").splitlines()
    assert [line for line in lines if len(line) > 40] == ["/a/very/long/path/that/nobody/may/cut/in/two.csv"]
    assert " ".join(lines) == LONG
    assert wrapped("- a b c\nd", 5) == "- a b\n  c\nd"
    assert wrapped("漢字 漢字 漢字", 10) == "漢字 漢字\n漢字", "wide letters take two columns"
    assert wrapped("a  b", 80) == "a  b"


def test_errors_are_red_and_notes_yellow_where_colour_is_on(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert terminal(80, lambda: tell("error: no")) == "\x1b[31merror: no\x1b[0m\n"
    assert terminal(80, lambda: tell("note: well")) == "\x1b[33mnote: well\x1b[0m\n"
    assert terminal(80, lambda: tell("reading")) == "reading\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal(80, lambda: tell("error: no")) == "error: no\n"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert terminal(80, lambda: tell("error: no")) == "error: no\n"


def test_force_color_brings_colour_into_a_pipe_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell("error: no")
    monkeypatch.setenv("FORCE_COLOR", "1")
    tell(f"error: {LONG}")
    show(table())
    out, err = capsys.readouterr()
    assert err == f"error: no\n\x1b[31merror: {LONG}\x1b[0m\n"
    assert "\x1b[1mA title" in out
    assert "x" * 120 in out
    monkeypatch.setenv("NO_COLOR", "1")
    tell("error: no")
    assert capsys.readouterr().err == "error: no\n", "a wish for none counts more"


def test_a_table_in_a_pipe_keeps_whole_cells_and_has_no_blanks_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    show(Group(table(), "a line " * 30), "\n[end]")  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "A title that is wider than the columns of its table",
        "name          value",
        "first [bold]    1.5",
        f"second         22.5  {'x' * 120}",
        ("a line " * 30).rstrip(),
        "",
        "[end]",
    ]


def test_a_table_fits_a_terminal_and_its_title_is_not_squeezed(terminal: Terminal) -> None:
    for columns in (60, 80, 120):
        said = terminal(columns, lambda: show(table())).replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
        assert said[0] == "A title that is wider than the columns of its table"
        assert max(len(line.replace("\x1b[2m", "")) for line in said) <= columns
        assert sum(line.count("x") for line in said) == 120 + 0, "folded, not cut"


def test_a_closed_stream_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert open_console(stderr=True).width > 10_000


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "a\rb", "\u202eevil", "\b\b\b"])
def test_what_a_post_holds_cannot_steer_the_terminal(terminal: Terminal, evil: str) -> None:
    table = new_table("labels", "name", "n")
    add_row(table, evil, "1")
    written = terminal(60, lambda: show(f"label {evil}", table, Group(evil))) + terminal(
        60, lambda: tell(f"error: {evil}")
    )
    ours = written.replace("\r\n", "\n")
    for start in ("\x1b[2J", "\x1b]", "\x9b", "\r", "\u202e", "\b", "\x07"):
        assert start not in ours
    assert f"label {evil.encode('unicode_escape').decode()}" in ours
