"""Commands of cotune, many in one process, each within limits of time and memory, so that a crash or hang is known.

Starting Python and torch takes longer than most commands here; a process of its own for each of thousands would measure
that. A process that dies, or that is killed because its command takes too long or too much memory, is started again for
the commands that are left. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Command:
    """A command to run.

    Attributes
    ----------
    name : str
        Names its files of output, each once.
    args : tuple of str
        What stands behind `cotune`.
    seconds : float
        CPU time that it may take, of all its processes; ten times as long by the clock, as others may use the machine.
    """

    name: str
    args: tuple[str, ...]
    seconds: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes
    ----------
    name : str
        Of the command.
    ended : {"exit", "died", "hung", "too large"}
        It returned; its process ended without it; it was killed for its time or its memory.
    code : int
        Exit code, or that of the process; negative for a signal.
    seconds : float
        How long it took.
    peak : int
        The largest resident memory during it, bytes.
    stdout, stderr : str
        What it printed.
    """

    name: str
    ended: Literal["exit", "died", "hung", "too large"]
    code: int
    seconds: float
    peak: int
    stdout: str
    stderr: str

    @property
    def crashed(self) -> bool:
        """Whether it ended in another way than with a result or with an error that speaks to the user."""
        bug = "this is a bug of cotune" in self.stderr or "Traceback (most recent call last)" in self.stderr
        return self.ended in ("died", "too large") or bug or self.code not in (0, 2)


def run_guarded(commands: Iterable[Command], folder: Path, *, memory: int = 6 * 2**30) -> Iterator[Outcome]:
    """Run commands one after the other; yield how each ended.

    Parameters
    ----------
    commands : iterable of Command
        What to run.
    folder : Path
        For what they print.
    memory : int
        Resident bytes that a process may have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    worker: _Worker | None = None
    try:
        for command in commands:
            worker = worker if worker is not None and worker.process.poll() is None else _Worker(folder, memory)
            yield worker.run(command)
    finally:
        if worker is not None:
            worker.stop()


class _Worker:
    """A process that runs commands."""

    def __init__(self, folder: Path, memory: int) -> None:
        self.folder, self.memory = folder, memory
        here = [sys.executable, __file__]
        self.process = subprocess.Popen(here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command: Command) -> Outcome:
        out, err = (self.folder / f"{command.name}.{kind}" for kind in ("out", "err"))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        ended: list[Literal["hung", "too large"]] = []
        done = threading.Event()
        peak = [0]
        watch = threading.Thread(target=self._watch, args=(command.seconds, done, ended, peak), daemon=True)
        started = time.perf_counter()
        watch.start()
        self.process.stdin.write(json.dumps({**asdict(command), "out": str(out), "err": str(err)}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        done.set()
        watch.join()
        seconds = time.perf_counter() - started
        said = [path.read_text(encoding="utf-8", errors="replace") if path.exists() else "" for path in (out, err)]
        if answer:
            found = json.loads(answer)
            return Outcome(command.name, "exit", found["code"], seconds, max(peak[0], found["peak"]), *said)
        code = self.process.wait()
        return Outcome(command.name, ended[0] if ended else "died", code, seconds, peak[0], *said)

    def _watch(self, seconds: float, done: threading.Event, ended: list, peak: list[int]) -> None:
        watched, started = psutil.Process(self.process.pid), time.perf_counter()
        with suppress(psutil.Error):
            before = _cpu_seconds(watched)
            while not done.wait(0.1):
                processes = [watched, *watched.children(recursive=True)]
                used = sum(_resident(process) for process in processes)
                peak[0] = max(peak[0], used)
                busy = sum(map(_cpu_seconds, processes)) - before
                late = busy > seconds or time.perf_counter() - started > 10 * seconds
                if late or used > self.memory:
                    ended.append("hung" if late else "too large")
                    for process in processes[::-1]:
                        with suppress(psutil.Error):
                            process.kill()
                    return

    def stop(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def work() -> None:
    """Run the commands that come on standard input, one a line, and answer each with a line."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    from cotune.cli import main

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        command = json.loads(line)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the kernel's record of the largest memory begins again
        with Path(command["out"]).open("wb") as out, Path(command["err"]).open("wb") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = main(command["args"])
            sys.stdout.flush()
            sys.stderr.flush()
        print(json.dumps({"code": code, "peak": _peak()}), file=answers, flush=True)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    work()
