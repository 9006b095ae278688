"""Starts one process for each device of this machine, as `torchrun` does, and sees to it that all of them end.

It is not torchrun itself, since that passes Ctrl-C to every process and kills them half a minute later; here the first
one alone is told, goes back to the last finished epoch and saves the run in the time that it needs.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO

from cotune.console import tell
from cotune.errors import ConfigError
from cotune.settings import FitConfig
from cotune.training.ranks import launched

#: Seconds for the first rank to say itself what has gone wrong, and for all others to end.
_GRACE = 10.0


def needs_launch(config: FitConfig) -> bool:
    """Tell whether the settings ask for several devices, and no process has been started for them yet.

    Raises
    ------
    ConfigError
        If they ask for several machines: their processes have to be started there.
    """
    if launched() is not None or config.devices * config.nodes == 1:
        return False
    if config.nodes > 1:
        raise ConfigError(
            f"--nodes {config.nodes}: start the command on each machine with `torchrun --nnodes {config.nodes} "
            f"--nproc-per-node {config.devices} --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m cotune fit ...`"
        )
    return True


def launch(arguments: Sequence[str], count: int) -> int:
    """Run ``python ARGUMENTS`` once for every device, and return the exit code of the first rank.

    Ctrl-C and SIGTERM reach the first rank alone. Once it has ended, the others are ended too; if one of them fails,
    all are ended, and its last words are passed on.
    """
    with ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1)]
        outputs: list[IO[bytes] | None] = [None, *streams]
        port = _free_port()
        processes = [_start(arguments, rank, count, port, outputs[rank]) for rank in range(count)]
        stack.callback(_end, processes)
        _pass_on_signals(processes[0], stack)
        failed = _watch(processes)
        if failed is None:
            return _code(processes[0])
        streams[failed - 1].seek(0)
        said = streams[failed - 1].read().decode(errors="replace").strip().splitlines()
        reason = said[-1].removeprefix("error: ") if said else f"ended by itself (exit code {_code(processes[failed])})"
        tell(f"error: rank {failed} of {count}: {reason}")
        return _code(processes[failed])


def _start(
    arguments: Sequence[str], rank: int, count: int, port: int, output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    world = {
        "TORCHELASTIC_RUN_ID": secrets.token_hex(4),
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "COTUNE_LAUNCHER": os.getpid(),
    }  # fmt: skip
    usual = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**usual, **os.environ, **{name: str(value) for name, value in world.items()}},
        stdin=subprocess.PIPE,  # its end tells the process that this one is gone
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C of a terminal comes here alone
    )


def _pass_on_signals(first: subprocess.Popen[bytes], stack: ExitStack) -> None:
    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            first.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.signal(number, pass_on)
        stack.callback(signal.signal, number, before)


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for the first rank; return the number of another that failed, or None if the first tells its own end."""
    while processes[0].poll() is None:
        failed = next((rank for rank, process in enumerate(processes) if process.poll()), None)
        if failed:
            # What one of them refuses, such as a bad table, the first refuses too, and says so.
            with suppress(subprocess.TimeoutExpired):
                processes[0].wait(_GRACE)
            return failed if processes[0].poll() is None else None
        time.sleep(0.05)
    return None


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs, once the first rank is done."""
    for process in processes:
        if process.poll() is None:
            process.kill() if process is not processes[0] else process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _code(process: subprocess.Popen[bytes]) -> int:
    code = process.poll()
    return 1 if code is None else code if code >= 0 else 128 - code


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def follow_launcher() -> None:
    """In a rank that :func:`launch` has started: end with it, and leave Ctrl-C to the first rank."""
    if os.environ.get("COTUNE_LAUNCHER") is None:
        return
    # Passed on by the launcher; a shell that runs it in the background has its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def follow() -> None:
        while os.read(0, 1):  # not by sys.stdin, whose lock would be held when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="follow-launcher").start()
