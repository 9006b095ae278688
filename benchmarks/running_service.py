"""A `cotune serve` of its own for the benchmarks of the service."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import psutil


class RunningService:
    """A service on a free port, as a process of its own; its log is counted, line by line.

    Parameters
    ----------
    run : str
        A run or an export.
    options : sequence of str
        Further options of `cotune serve`.
    """

    def __init__(self, run: str, options: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "cotune", "serve", run, "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.errors: list[dict[str, Any]] = []
        self.no_json = 0
        assert self.process.stderr is not None
        before = []
        while not (line := self.process.stderr.readline()).startswith("{"):
            before.append(line)
            if not line:
                raise SystemExit("".join(before) or "the service did not start")
        self.url: str = json.loads(line)["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.watched = psutil.Process(self.process.pid)
        self.memory: list[int] = []
        threading.Thread(target=self._read_log, daemon=True).start()
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                found = json.loads(line)
            except ValueError:
                self.no_json += 1
                continue
            if found["level"] not in ("info", "warning"):
                self.errors.append(found)

    def _watch_memory(self) -> None:
        done = threading.Event()
        while not done.wait(0.1):
            try:
                self.memory.append(self.resident())
            except psutil.Error:
                return

    def resident(self) -> int:
        """Return its resident memory in bytes."""
        return int(self.watched.memory_info().rss)

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used."""
        times = self.watched.cpu_times()
        return float(times.user + times.system)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.code = self.process.wait()
