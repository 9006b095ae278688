from __future__ import annotations

import pytest

from cotune.progress import Progress, TerminalProgress


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


def test_bar_on_a_terminal_passes_everything_on(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    progress.console._force_terminal = True
    assert list(progress.track(range(5), "steps", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_an_error_passes_through_the_bar() -> None:
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
