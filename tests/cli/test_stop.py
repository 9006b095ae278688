"""SIGTERM is like Ctrl-C in every command: finished work is kept, nothing temporary stays, the code is 143."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cotune.benchmark import predictions
from cotune.cli import main
from cotune.cli.stop import terminable
from cotune.run import save_run
from explained import random_run
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts


def test_the_first_sigterm_interrupts_and_the_handler_goes_with_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable() as stop:
        assert stop.code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert stop.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_exit_code_of_a_stop_while_something_is_imported(tmp_path: Path) -> None:
    """Dataclasses are made by exec, through which Python notes a plain KeyboardInterrupt for good."""
    (tmp_path / "stopped.py").write_text(
        "import sys\n"
        "from cotune.cli.stop import terminable\n"
        "with terminable() as stop:\n"
        "    try:\n"
        "        exec('import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)')\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "sys.exit(stop.code)\n"
    )
    ended = subprocess.run([sys.executable, "-m", "stopped"], cwd=tmp_path, check=False)
    assert ended.returncode == 143


def test_another_thread_sets_no_handler() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_library_sets_no_handler() -> None:
    code = (
        "import signal, cotune, cotune.estimators.classifier, cotune.benchmark; print(signal.getsignal(signal.SIGTERM))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() in ("Handlers.SIG_DFL", "0")


def flags(zoo: Zoo, cache: Path, **more: object) -> list[str]:
    given = tiny_settings(zoo, cache, **more)
    return [word for key, value in given.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]


def stop_when(ready: Callable[[], bool], *words: object, group: bool = False) -> tuple[int, str]:
    """Send SIGTERM to a command once `ready`; return its exit code and what it wrote to standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cotune", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    if group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def temporary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]


@pytest.mark.parametrize(("jobs", "group"), [(1, False), (2, True)])
def test_bench_keeps_finished_cells(zoo: Zoo, tmp_path: Path, jobs: int, group: bool) -> None:
    table = write_table(make_posts(tmp_path / "images", 40, gaps=False), tmp_path / "posts.csv")
    out = tmp_path / "out"
    words = ["bench", table, "--out", out, "--methods", "joint", "--folds", 10, "--protocol", "paper", "--emap", 0]
    words += ["--jobs", jobs, "--bootstrap", 0, *flags(zoo, tmp_path / "cache", epochs=30, min_epochs=30)]
    code, err = stop_when(lambda: predictions.count(out) > 1, *words, group=group)
    assert code == 143, err
    assert "finished cell" in err.splitlines()[-1]
    assert "--resume goes on" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert temporary(out) == []
    assert predictions.read(out)


def slow_table(folder: Path) -> Path:
    """Return a table that takes a while, the same few images again and again."""
    posts = make_posts(folder / "images", 12, gaps=False)
    table = write_table(posts, folder / "small.csv")
    head, *rows = table.read_text().splitlines()
    at = head.split(",").index("id")
    lines = []
    for i in range(3000):
        cells = rows[i % len(rows)].split(",")
        cells[at] = str(i)
        lines.append(",".join(cells))
    (folder / "posts.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder / "posts.csv"


@pytest.mark.parametrize("command", ["predict", "evaluate", "explain"])
def test_commands_that_use_a_run(zoo: Zoo, tmp_path: Path, command: str) -> None:
    run = random_run(zoo, classes=2)
    table = slow_table(tmp_path)
    assert set(run.classes) == set(make_posts(tmp_path / "p", 4, gaps=False)["label"])
    save_run(tmp_path / "run", run)
    out = tmp_path / ("out.csv" if command == "predict" else "out")
    words = [command, tmp_path / "run", table, "--out", out, "--chunk-size", 20, "--device", "cpu"]
    ready = {
        "predict": lambda: len(temporary(tmp_path)) > 0,
        "evaluate": lambda: True,
        "explain": lambda: len(list(out.glob(".unfinished/chunk-*"))) > 1,
    }[command]
    if command == "evaluate":
        started = time.monotonic()
        ready = lambda: time.monotonic() > started + 4  # noqa: E731
    code, err = stop_when(ready, *words)
    assert code == 143, err
    assert err.splitlines()[-1].startswith("stopped")
    assert "Traceback" not in err
    assert temporary(tmp_path) == []
    if command == "explain":
        assert "the same command resumes from there" in err
    else:
        assert not out.exists()


def test_demo_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(**_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr("cotune.demo.experiment.run_demo", terminated)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; nothing was saved"
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_destructor_is_not_lost(number: signal.Signals) -> None:
    class Leaving:
        def __del__(self) -> None:
            signal.raise_signal(number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with terminable() as stop:
            with pytest.raises(KeyboardInterrupt):
                leaving = Leaving()
                del leaving
                time.sleep(5)
            assert stop.code == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
