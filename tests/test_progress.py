from __future__ import annotations

import io
import sys
import types

import pytest
from rich.console import Console

from cotune.progress import NotebookProgress, Progress, TerminalProgress, watched_progress


def test_silent_progress_passes_everything_on(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.say("words")
    assert list(progress.track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_terminal_progress_keeps_standard_output_free(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    progress.say("loss [0.5] of run")
    assert list(progress.track(range(3), "steps", 3)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert "loss [0.5] of run" in err, "square brackets are text, not markup"


def test_bar_on_a_terminal_passes_everything_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cotune.progress.is_terminal", lambda console: True)
    progress = TerminalProgress()
    progress.console._force_terminal = True
    assert list(progress.track(range(5), "steps", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_an_error_passes_through_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.progress.is_terminal", lambda console: True)

    def broken() -> object:
        yield 1
        raise ValueError("inside")

    progress = TerminalProgress()
    progress.console._force_terminal = True
    with pytest.raises(ValueError, match="inside"):
        list(progress.track(broken(), "steps", 5))


def test_a_long_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalProgress().say("note: " + "word " * 60 + "end")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_log_without_bars_hears_of_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalProgress().begin("reading 7 images")
    assert capsys.readouterr().err == "reading 7 images\n"
    Progress().begin("reading 7 images")
    assert capsys.readouterr().err == ""


class Cell:
    """Stands for the output of a notebook's cell."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, html: str) -> None:
        self.shown.append(html)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Let the program believe that it runs in a notebook."""
    cell = Cell()
    found = types.ModuleType("IPython")
    found.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display = types.ModuleType("IPython.display")
    display.HTML = str  # type: ignore[attr-defined]

    def show(html: str, *, display_id: bool) -> Cell:
        assert display_id
        cell.shown.append(html)
        return cell

    display.display = show  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", found)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(NotebookProgress, "pause", 0.0)
    return cell


def test_a_bar_below_the_cell_of_a_notebook(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    progress = watched_progress()
    assert list(progress.track(range(3), "steps <b>", 3)) == [0, 1, 2]
    progress.begin("training")
    progress.say("note: <done>")
    assert capsys.readouterr() == ("training\nnote: <done>\n", ""), "standard error looks like a failure there"
    first, *between, end = cell.shown
    assert 'value="0" max="3"' in first
    assert 'aria-label="steps &lt;b&gt;"' in first
    assert "3 of 3" in between[-1]
    assert end == "", "the bar goes when the work is done"
    cell.shown.clear()
    assert list(progress.track(iter("ab"), "chunks", None)) == ["a", "b"]
    assert all("max=" not in html for html in cell.shown)
    assert list(progress.track([1], "one", 1)) == [1]
    with pytest.raises(ValueError, match="inside"), progress.counter("steps", 3):
        raise ValueError("inside")
    assert cell.shown[-1] == ""


def test_outside_of_a_kernel_bars_are_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(watched_progress(), TerminalProgress)
    shell = types.ModuleType("IPython")
    shell.get_ipython = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert isinstance(watched_progress(), TerminalProgress)


def test_a_counter_is_told_how_far_work_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (Progress(), TerminalProgress()):
        with progress.counter("images") as count:
            count(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("cotune.progress.is_terminal", lambda console: True)
    progress = TerminalProgress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress.counter("images [of 2]") as count:
        count(1, 2)
    assert "images [of 2]" in progress.console.file.getvalue()  # type: ignore[attr-defined]
