"""Images decoded by processes of their own, so that one that crashes or hangs its decoder is an error of its row alone.

Each process has a file in memory that both sides read and write: encoded bytes go there, pixels come back. What is sent
beside are numbers and a short text, which are checked; nothing is unpickled.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from cotune.data.images import decoder
from cotune.data.images.appearance import Appearance
from cotune.data.images.decode import Decoded, Wanted, decode_here
from cotune.data.images.sources import FAULT_KINDS, ImageFault
from cotune.errors import ConfigError, CotuneError, clip

VARIABLE = "COTUNE_DECODE"
"""Environment variable that says where images are decoded: ``worker`` or ``inline``."""

SECONDS = 30
"""Most seconds of a core that one image may take."""

PATIENCE = 4
"""Seconds that an image may take in all for each that it may use a core, as it may have to wait for one."""

_START_SECONDS = 60
_KEPT = 64 * 2**20  # bytes that a file in memory keeps after an image
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "import runpy; runpy.run_module('cotune.data.images.decoder', run_name='__main__')"
)


def decode(data: bytes, name: str, wanted: Wanted) -> Decoded:
    """Decode the encoded `data` in another process, or in this one where that is asked for or there is no other way.

    Parameters
    ----------
    data : bytes
        The content of an image file.
    name : str
        What to call it in messages.
    wanted : Wanted
        What is wanted of it.

    Raises
    ------
    CotuneError
        If no process can be started.
    """
    if not in_worker():
        return decode_here(data, name, wanted)
    return _the_pool().decode(data, name, wanted)


def in_worker() -> bool:
    """Tell whether images are decoded by processes of their own.

    Raises
    ------
    ConfigError
        If the environment variable says neither.
    """
    asked = os.environ.get(VARIABLE) or "worker"
    if asked not in ("worker", "inline"):
        raise ConfigError(f"{VARIABLE} is {clip(asked)!r}; it says worker or inline")
    return asked == "worker" and hasattr(os, "pread") and bool(sys.executable)


class _Stopped(Exception):  # noqa: N818 - what happened to the process
    """The process ended, or had to be ended."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class _Answer:
    kind: int
    width: int
    height: int
    format: str | None
    text: bytes


class Worker:
    """One process that decodes images, one after the other.

    Parameters
    ----------
    seconds : int
        Most seconds of a core for an image.

    Raises
    ------
    CotuneError
        If it cannot be started.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self.seconds = seconds
        self._file = _file_in_memory()
        path = json.dumps(list(map(str, sys.path)))  # the same packages as here
        with tempfile.TemporaryFile() as said:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _CODE, path, str(self._file), str(seconds), *_further()],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0, pass_fds=[self._file],
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    process_group=0,  # Ctrl-C is for the program that asks, which ends it
                )  # fmt: skip
            except (OSError, ValueError) as error:
                os.close(self._file)
                raise _cannot_start(str(error)) from error
            assert self.process.stdout is not None
            self._waiting = select.poll()
            self._waiting.register(self.process.stdout.fileno(), select.POLLIN)
            try:
                self._receive(_START_SECONDS)
            except _Stopped as stopped:
                self.end()
                said.seek(0)
                lines = said.read().decode("utf-8", "replace").strip().splitlines()
                raise _cannot_start(lines[-1] if lines else str(stopped)) from None

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def ask(self, data: bytes, wanted: Wanted, *, large: bool) -> _Answer:
        """Send an image and return the answer.

        Raises
        ------
        _Stopped
            If the process ended, or took too long.
        """
        what, most = decoder.WANTED.index(wanted.what), Image.MAX_IMAGE_PIXELS or 0
        request = decoder.REQUEST.pack(
            len(data), max(0, wanted.max_pixels), max(0, wanted.min_side or 0), what, large, most
        )
        assert self.process.stdin is not None
        decoder.write_whole(self._file, data)
        try:
            self.process.stdin.write(request)
        except OSError:
            raise self._ended() from None
        return self._receive(PATIENCE * self.seconds)

    def pixels(self, answer: _Answer, max_pixels: int) -> Image.Image:
        """Return the image that an answer speaks of.

        Raises
        ------
        _Stopped
            If there is none in the file.
        """
        try:
            width, height = decoder.SIZE.unpack(answer.text)
            if not 0 < width * height <= max_pixels:
                raise ValueError
            return decoder.read_pixels(self._file, width, height)
        except (ValueError, EOFError, struct.error):
            raise _Stopped("it gave no image") from None

    def forget(self, n_bytes: int) -> None:
        """Give memory back after an image that took so many bytes in the file."""
        if n_bytes > _KEPT:
            os.ftruncate(self._file, 0)

    def end(self) -> None:
        """End the process, whatever it is doing, and wait for it."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Let go of what leads to the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with suppress(OSError):
            os.close(self._file)

    def _receive(self, seconds: float) -> _Answer:
        ends, found = time.monotonic() + seconds, b""
        while len(found) < decoder.ANSWER.size:
            found += self._read(ends)
        kind, width, height, of_format, of_text = decoder.ANSWER.unpack_from(found)
        at = decoder.ANSWER.size
        while len(found) < at + of_format + of_text:
            found += self._read(ends)
        format_ = found[at : at + of_format].decode("ascii", "replace")
        return _Answer(kind, width, height, format_ or None, found[at + of_format : at + of_format + of_text])

    def _read(self, ends: float) -> bytes:
        """Return what the process has sent."""
        while not self._waiting.poll(1_000):
            if not self.alive:  # a process that forked at that moment may hold its pipe open
                raise self._ended()
            if time.monotonic() > ends:
                raise _Stopped(f"it took more than {PATIENCE * self.seconds} s")
        assert self.process.stdout is not None
        found = os.read(self.process.stdout.fileno(), 4_096)
        if not found:
            raise self._ended()
        return found

    def _ended(self) -> _Stopped:
        """Say how the process ended, which has let go of its pipes."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return _Stopped("it gave no answer")
        if code >= 0:
            return _Stopped(f"exit code {code}", again=True)
        if -code == signal.SIGXCPU:
            return _Stopped(f"it took more than {self.seconds} s of a core")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return _Stopped(f"signal {-code}, {name}", again=True)


class DecoderPool:
    """Processes that decode images, started as they are needed; any number of threads may ask.

    Parameters
    ----------
    size : int
        The most processes.
    seconds : int
        Most seconds of a core for an image.
    """

    def __init__(self, size: int, seconds: int = SECONDS) -> None:
        self.seconds = seconds
        self.workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._turns = threading.BoundedSemaphore(size)
        self._one_large = threading.Lock()
        self._lock = threading.Lock()

    def decode(self, data: bytes, name: str, wanted: Wanted) -> Decoded:
        """Decode the encoded `data`; `name` is for messages.

        A process that ends is replaced and asked once more: the system may have ended it because memory ran out, or
        somebody by hand. Where it ends again, or takes too long, it is the image's fault.
        """
        for tried in (False, True):
            try:
                return self._try(data, name, wanted, fresh=tried)
            except _Stopped as stopped:
                if tried or not stopped.again:
                    fault = ImageFault("unreadable", f"{name}: cannot be decoded: the decoder stopped ({stopped})")
                    return Decoded(fault=fault)
        raise AssertionError("unreachable")  # pragma: no cover

    def _try(self, data: bytes, name: str, wanted: Wanted, *, fresh: bool) -> Decoded:
        with self._worker(fresh=fresh) as worker:
            answer = worker.ask(data, wanted, large=False)
            if answer.kind == decoder.LARGE:
                with self._one_large:
                    answer = worker.ask(data, wanted, large=True)
                    found = self._decoded(worker, answer, name, wanted)
            else:
                found = self._decoded(worker, answer, name, wanted)
            worker.forget(max(len(data), 0 if found.image is None else 3 * found.image.width * found.image.height))
            return found

    def _decoded(self, worker: Worker, answer: _Answer, name: str, wanted: Wanted) -> Decoded:
        about = Decoded(answer.width, answer.height, answer.format)
        if answer.kind == decoder.HEADER and wanted.what == "size":
            return about
        if answer.kind == decoder.PIXELS and wanted.what == "pixels":
            return replace(about, image=worker.pixels(answer, wanted.max_pixels))
        if answer.kind == decoder.APPEARANCE and wanted.what == "appearance":
            with suppress(ValueError):
                return replace(about, appearance=Appearance.from_bytes(answer.text))
        if answer.kind == decoder.FAULT:
            kind, _, reason = answer.text.decode("utf-8", "replace").partition("\n")
            if kind in FAULT_KINDS:
                reason = "".join(letter if letter.isprintable() else " " for letter in reason)
                return replace(about, fault=ImageFault(kind, name + clip(reason, 400)))
        raise _Stopped("it gave an answer that makes no sense")

    @contextmanager
    def _worker(self, *, fresh: bool) -> Iterator[Worker]:
        """Yield a process that nobody else asks meanwhile; after an exception it is ended.

        With `fresh` it is a new one: whoever killed one may have killed them all, and their ends are not seen yet.
        """
        with self._turns:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is not None and (fresh or not worker.alive):
                self._end(worker)
                worker = None
            if worker is None:
                worker = Worker(self.seconds)
                with self._lock:
                    self.workers.add(worker)
            try:
                yield worker
            except BaseException:
                self._end(worker)
                raise
            with self._lock:
                self._idle.append(worker)

    def _end(self, worker: Worker) -> None:
        with self._lock:
            self.workers.discard(worker)
        worker.end()

    def end(self) -> None:
        """End all processes."""
        with self._lock:
            workers, self.workers, self._idle = self.workers, set(), []
        for worker in workers:
            worker.end()

    def abandon(self) -> None:
        """Let go of processes that are another process's children."""
        for worker in self.workers:
            worker.close()


_pool: DecoderPool | None = None
_abandoned: list[Any] = []
_pool_lock = threading.Lock()


def _the_pool() -> DecoderPool:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = DecoderPool(_cores())
        return _pool


def end_decoders() -> None:
    """End the processes that decode; they are started again when they are needed."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
    if pool is not None:
        pool.end()


def _forget_after_fork() -> None:
    """Leave the processes to the one that started them: two that ask the same would mix up the answers."""
    global _pool, _pool_lock
    _pool_lock = threading.Lock()  # whoever held it is not here
    if _pool is not None:
        _pool.abandon()
        _abandoned.append(_pool)  # kept, as what is thrown away would be waited for
        _pool = None


atexit.register(end_decoders)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _file_in_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cotune-image", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _further() -> list[str]:
    """Return the modules that have taught Pillow formats here and have to do so there."""
    return ["pillow_heif"] if "HEIF" in Image.OPEN and "pillow_heif" in sys.modules else []


def _cannot_start(reason: str) -> CotuneError:
    return CotuneError(
        f"the process that decodes images cannot be started ({clip(reason)}); {VARIABLE}=inline in the environment "
        "decodes them in the program itself"
    )
