"""Kill every command at random moments (`kill -9`), resume it, and compare the result with that of no kill.

    python benchmarks/kills.py --out kills.json [--commands fit,bench,predict,explain,tune,serve] [--kills 50]
    python benchmarks/kills.py --out full.json --fault full-disk --commands fit,bench,predict,explain,tune
    python benchmarks/kills.py --out stops.json --fault interrupt --commands fit,bench,predict,explain,tune

Each command has several cases, small enough to end after seconds (`kill_cases.py`). A case first runs to its end
twice, and the two have to agree. Then follow series: the command is started, killed with all its processes, started
again with `--resume`, perhaps killed again, until it ends. Of one with workers, every other time the first process is
killed alone, and its workers have to end by themselves. Half of the kills come after a random time, the others just
before a random change of a file (opened for writing, renamed or deleted), where something may be half done. Every
twentieth series is `python -m cotune`, the others are forked, which spares them the imports. After each kill every file
at its final name, every store of the cache, every run and export has to be whole; in the end the result has to be the
one of no kill, and no temporary file may be left. A service is asked without a pause while it is killed: each answer
has to be an error or the right one.

With `--fault full-disk` no process is killed. From a random change of a file on, the system refuses to write to any
file (RLIMIT_FSIZE), as on a full disk; the command has to end with code 2 and one line, or to do without what it could
not write, and leave no temporary file. Then there is room again, and it is resumed. With `--fault interrupt` it gets
SIGINT or SIGTERM at a random moment, every other time twice; it has to end with that code and one line.

`--out` is written after every series. Started again with the same options, the script goes on where it was killed. Exit
code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Before anything is imported that reads them: one thread for the children, none here, no network.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
               "JE_ARROW_MALLOC_CONF": "background_thread:false"}  # fmt: skip

import kill_cases
from kill_cases import COMMANDS, OTHERS, Case
from served_answers import Client
from whole_files import damaged_files, leftovers, result_of

#: What is imported by each process for itself; the engines start a thread.
_NOT_IMPORTED = {"__main__", "__mp_main__", "onnxruntime", "openvino"}
_SLOW = 10  # one of so many series is of a slow case
_FRESH = 20  # one of so many series is started as a process of its own
_MOST = 6  # kills of a series
_PATIENCE = 240.0  # seconds after which a command counts as hanging
_ORPHANS = 20.0  # seconds within which workers have to end after the first process was killed
_SERVING = 1.5  # seconds for which a service is asked before it is killed at the latest


@dataclass
class Reference:
    """A case that nothing killed: what came out, how long it took, how often it changed a file."""

    result: dict[str, Any]
    seconds: dict[str, float]
    changes: int


@dataclass
class Series:
    """What became of one series: its kills, and what was wrong."""

    command: str
    case: str
    number: int
    fresh: bool
    kills: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    equal: bool = False
    answers: dict[str, int] = field(default_factory=dict)


def main() -> int:
    """Kill, go on, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(COMMANDS), help="with commas")
    parser.add_argument("--kills", type=int, default=50, help="of each command, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", choices=("kill", "full-disk", "interrupt"), default="kill")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    commands = args.commands.split(",")
    if unknown := set(commands) - {*COMMANDS, *OTHERS}:
        raise SystemExit(f"unknown command {min(unknown)}; there are {', '.join(COMMANDS)}")
    done = _kept(args.out, args.seed)
    wanted = [command for command in commands if _kills(done, command) < args.kills]
    if not wanted:
        print(_table(done, commands))
        return _code(done)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        inputs = folder / "inputs"
        chosen = [case for case in kill_cases.cases(inputs) if case.command in wanted and args.case in case.title]
        in_child(kill_cases.make_inputs, inputs, any(str(inputs / "export") in case.words for case in chosen))
        for command in dict.fromkeys(case.command for case in chosen):
            _command(command, chosen, folder, done, args)
    print(_table(done, commands))
    return _code(done)


def _code(done: Sequence[Series]) -> int:
    return int(any(series.wrong or not series.equal for series in done))


def _kills(done: Sequence[Series], command: str) -> int:
    return sum(len(series.kills) for series in done if series.command == command)


def _command(command: str, chosen: Sequence[Case], folder: Path, done: list[Series], args: argparse.Namespace) -> None:
    """Make series of a command, its cases in turn, until there are enough kills."""
    own = [case for case in chosen if case.command == command]
    references: dict[str, Reference] = {}
    number = 0
    while _kills(done, command) < args.kills:
        case = _turn(own, number)
        if not any(series.command == command and series.number == number for series in done):
            if case.title not in references:
                references[case.title] = _reference(case, folder)
            make = _series if args.fault == "kill" else _gentle
            series = make(case, number, folder, references[case.title], args)
            done.append(series)
            _keep(args.out, args.seed, done)
            print(_line(series), flush=True)
        number += 1


def _turn(cases: Sequence[Case], number: int) -> Case:
    """Return the case of a series: each in turn, slow ones in every tenth series."""
    quick, slow = ([case for case in cases if case.slow is kind] for kind in (False, True))
    if slow and (not quick or number % _SLOW == _SLOW - 1):
        return slow[number // _SLOW % len(slow)]
    return quick[number % len(quick)]


def _kept(out: Path, seed: int) -> list[Series]:
    if not out.is_file():
        return []
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["seed"] != seed:
        raise SystemExit(f"{out} was begun with the seed {found['seed']}; give the same, or another file")
    return [Series(**series) for series in found["series"]]


def _keep(out: Path, seed: int, done: Sequence[Series]) -> None:
    from cotune.environment import environment
    from cotune.files import write_json

    about = {key: value for key, value in environment(seed, None, "cpu").items() if key not in ("created", "command")}
    write_json(out, {"seed": seed, "environment": about, "series": [asdict(series) for series in done]})


# ---- one case ----------------------------------------------------------------------------------------------


def _reference(case: Case, folder: Path) -> Reference:
    """Run a case twice to its end; the two must not differ, or nothing can be compared."""
    results, seconds, changes = [], {}, 0
    for kind in ("fresh", "forked"):  # the first one imports what the second one finds imported
        own = folder / "reference"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        case.before(own)
        started = time.perf_counter()
        process = Started(own, (*case.words, *case.first))
        if case.command == "serve":
            client = Client(process.log, folder / "inputs")
            results.append(in_child(client.right_answers))
            process.signal(signal.SIGTERM)
        code = process.wait(_PATIENCE)
        seconds[kind] = time.perf_counter() - started
        if code != 0:
            raise SystemExit(f"{case.title} ends with code {code}:\n{process.said()[-3000:]}")
        about = json.loads(beside(own, "about").read_text())
        changes = about["changes"]
        for module in about["modules"]:
            if module not in sys.modules and module.partition(".")[0] not in _NOT_IMPORTED:
                with suppress(Exception):
                    importlib.import_module(module)
        if case.command != "serve":
            results.append(in_child(result_of, own / case.out))
    differing = _differing(*results) if case.command != "serve" else in_child(client.differing, *results)
    if differing:
        raise SystemExit(f"{case.title}: two runs that nothing killed differ in {', '.join(differing)}")
    shutil.rmtree(own)
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        raise SystemExit(f"{case.title}: an import started {threads - 1} threads, with which nothing may be forked")
    print(f"{case.title}: {seconds['forked']:.1f} s, {changes} changes of files", flush=True)
    return Reference(results[0], seconds, changes)


def _differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name or "the file" for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _series(case: Case, number: int, folder: Path, reference: Reference, args: argparse.Namespace) -> Series:
    """Start a case, kill it, go on, until it ends; compare."""
    dice = random.Random(f"{args.seed} {case.command} {number}")
    fresh = number % _FRESH == _FRESH - 1
    series = Series(case.command, case.name, number, fresh)
    own = folder / f"{case.command}-{number}"
    own.mkdir()
    case.before(own)
    most = dice.randint(2, _MOST)
    while True:
        more = [] if case.command == "serve" else case.again(own) if series.kills else case.first
        last = len(series.kills) == most
        at_change, share = None, 1 + len(series.kills)  # the less there is to do, the sooner
        if not (fresh or last or dice.random() < 0.5) and reference.changes:
            at_change = dice.randint(1, max(1, reference.changes // share))
        alone = case.workers and dice.random() < 0.5
        moment = dice.uniform(0, reference.seconds["fresh" if fresh else "forked"] / share)
        process = Started(own, (*case.words, *more), fresh=fresh, alone=alone, at_change=at_change)
        if case.command == "serve":
            ended = _serve(series, process, folder, reference, None if last else moment + _SERVING)
        else:
            ended = process.wait(_PATIENCE if last or at_change is not None else moment)
        if ended is None and not last:
            process.kill()
            ended = process.wait(_PATIENCE)
        if ended is None:
            series.wrong.append(f"hangs: {process.said()[-300:]}")
            process.kill()
            break
        if ended != -signal.SIGKILL:
            if ended != 0:
                series.wrong.append(f"code {ended}: {process.said()[-300:]}")
            break
        kill = {
            "after": round(process.seconds, 3),
            "at_change": at_change,
            "alone": alone,
            "left": sorted(map(_name, own.iterdir())),
        }
        series.kills.append(kill)
        if not process.orphans_end():
            series.wrong.append(f"workers are still there {_ORPHANS:.0f} s after the first process was killed")
            process.kill()
        series.wrong += in_child(damaged_files, own)
    _compare(series, case, own, reference)
    _clear(series, own)
    return series


def _gentle(case: Case, number: int, folder: Path, reference: Reference, args: argparse.Namespace) -> Series:
    """Let a command meet a fault that it can answer, and go on; compare."""
    dice = random.Random(f"{args.seed} {args.fault} {case.command} {number}")
    series = Series(case.command, case.name, number, fresh=False)
    own = folder / f"{case.command}-{number}"
    own.mkdir()
    case.before(own)
    words = (*case.words, *case.first)
    if args.fault == "full-disk":
        at_change = dice.randint(1, reference.changes)
        process = Started(own, words, at_change=at_change, fault=_fill_disk)
        code, right = process.wait(_PATIENCE), (0, 2)
    else:
        at_change, number = None, dice.choice((signal.SIGINT, signal.SIGTERM))
        process, right = Started(own, words), (0, 128 + number, -number)  # a shell makes one of the latter two
        code = process.wait(dice.uniform(0, reference.seconds["forked"]))
        for pause in (0.0, *([dice.uniform(0, 0.3)] if dice.random() < 0.5 else [])):  # one, or two in a row
            if code is None and (code := process.wait(pause)) is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        code = process.wait(_PATIENCE) if code is None else code
    said = process.said()
    lines = [line for line in said.splitlines() if line.startswith(("error: ", "stopped"))]
    series.kills.append({"at_change": at_change, "after": round(process.seconds, 3), "code": code, "said": lines})
    if code is None:
        process.kill()
        process.wait(_PATIENCE)
    if code not in right or "Traceback" in said or (code != 0) != (len(lines) == 1):
        series.wrong.append(f"code {code} after the fault: {said[-400:]}")
    series.wrong += in_child(damaged_files, own)
    series.wrong += [f"{name} is left" for name in in_child(leftovers, own)]
    if code != 0:
        process = Started(own, (*case.words, *case.again(own)))
        code = process.wait(_PATIENCE)
        if code != 0:
            series.wrong.append(f"code {code}: {process.said()[-400:]}")
    _compare(series, case, own, reference)
    _clear(series, own)
    return series


def _clear(series: Series, own: Path) -> None:
    if series.wrong:  # to look at
        name = f"kills-wrong-{series.command}-{series.number}"
        shutil.copytree(own, Path(tempfile.gettempdir()) / name, dirs_exist_ok=True)
    shutil.rmtree(own)
    beside(own, "log").unlink()


def _name(path: Path) -> str:
    return f"{path.name} ({sum(1 for _ in path.rglob('*'))})" if path.is_dir() else path.name


def _compare(series: Series, case: Case, own: Path, reference: Reference) -> None:
    if case.command != "serve":
        differing = (
            _differing(in_child(result_of, own / case.out), reference.result) if (own / case.out).exists() else ["all"]
        )
        series.wrong += [f"{name} differs" for name in differing]
    series.wrong += in_child(damaged_files, own)
    series.wrong += [f"{name} is left" for name in in_child(leftovers, own)]
    series.equal = not any("differs" in what or "wrong answer" in what or "code" in what for what in series.wrong)


def _serve(series: Series, process: Started, folder: Path, reference: Reference, until: float | None) -> int | None:
    """Ask a service while it is killed; without a moment to kill it, ask it everything and stop it."""
    client = Client(process.log, folder / "inputs", reference.result)
    if until is None:
        found = in_child(client.right_answers)
        series.wrong += [
            f"wrong answer after a restart: {what}" for what in in_child(client.differing, found, reference.result)
        ]
        process.signal(signal.SIGTERM)
        return process.wait(_PATIENCE)
    asking = [ask_meanwhile(client, process.pid * 10 + i) for i in range(2)]
    code = process.wait(until)
    if code is None:
        process.kill()
        code = process.wait(_PATIENCE)
    client.stop.touch()
    for answers in asking:
        found = answers()
        for kind, n in found["answers"].items():
            series.answers[kind] = series.answers.get(kind, 0) + n
        series.wrong += [f"wrong answer: {what}" for what in found["wrong"]]
    client.stop.unlink()
    return code


def beside(folder: Path, what: str) -> Path:
    """Return a file of this script about a folder, which lies beside it."""
    return folder.with_name(f"{folder.name}.{what}")


# ---- processes ---------------------------------------------------------------------------------------------


class Started:
    """A command as a process, with a process group of its own."""

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        *,
        fresh: bool = False,
        alone: bool = False,
        at_change: int | None = None,
        fault: Callable[[bool], None] | None = None,
    ) -> None:
        self.alone = alone
        self.log = beside(folder, "log")
        self.log.unlink(missing_ok=True)
        self._began = time.perf_counter()
        self.seconds = 0.0
        if fresh:
            environment = {**os.environ, "COTUNE_CACHE": str(folder / "cache")}
            with self.log.open("wb") as log:
                self.pid = subprocess.Popen(
                    [sys.executable, "-m", "cotune", *words],
                    cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
                ).pid  # fmt: skip
        else:
            self.pid = os.fork()
            if not self.pid:
                _become(folder, words, at_change, lambda: (fault or _die)(alone))

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or the negative number of the signal; None if it runs on after so many seconds."""
        until = time.perf_counter() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.seconds = time.perf_counter() - self._began
                return os.waitstatus_to_exitcode(status)
            if time.perf_counter() >= until:
                return None
            time.sleep(0.001)

    def signal(self, number: int) -> None:
        """Send a signal to the first process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill all processes, or the first one alone."""
        with suppress(ProcessLookupError):
            (os.kill if self.alone else os.killpg)(self.pid, signal.SIGKILL)

    def orphans_end(self) -> bool:
        """Wait until no process of the group is left; false if there is one for too long."""
        until = time.perf_counter() + _ORPHANS
        while time.perf_counter() < until:
            if not _group_lives(self.pid):
                return True
            time.sleep(0.01)
        return False

    def said(self) -> str:
        """Return what it wrote to the terminal."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _group_lives(group: int) -> bool:
    """Tell whether a process of the group runs; one that nobody has waited for yet does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
            if int(own) == group and state != "Z":
                return True
    return False


def _die(alone: bool) -> None:
    """Kill this process, or all of its group."""
    os.kill(os.getpid() if alone else 0, signal.SIGKILL)
    time.sleep(60)


def _fill_disk(alone: bool) -> None:
    """Let the system refuse what this process writes to files from now on; its log is a pipe."""
    del alone
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _become(folder: Path, words: Sequence[str], at_change: int | None, fault: Callable[[], None]) -> None:
    """Be `python -m cotune` from here on; this process has just been forked."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        log = os.open(beside(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        to = log if at_change is None else _pipe_to(log)
        os.dup2(to, 1)
        os.dup2(to, 2)
        os.environ["COTUNE_CACHE"] = str(folder / "cache")
        sys.argv = ["cotune", *words]
        sys.modules["__main__"] = importlib.import_module("cotune.__main__")  # what workers import
        changes = _count_changes(folder, at_change, fault)
        from cotune.cli import main as cotune

        code = cotune(list(words))
        sys.stdout.flush()
        sys.stderr.flush()
        if at_change is None:  # of the reference it is read
            beside(folder, "about").write_text(json.dumps({"changes": changes(), "modules": sorted(sys.modules)}))
    finally:
        os._exit(code)


def _pipe_to(log: int) -> int:
    """Return a pipe into an open file, which a process of its own copies."""
    out, to = os.pipe()
    if not os.fork():
        os.setsid()
        os.close(to)
        while content := os.read(out, 65536):
            os.write(log, content)
        os._exit(0)
    os.close(out)
    return to


def _count_changes(folder: Path, at_change: int | None, fault: Callable[[], None]) -> Callable[[], int]:
    """Count changes of files in `folder`, and call `fault` just before one of them."""
    inside, n = f"{folder}/", 0
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal n
        if event == "open":
            if not isinstance(given[2], int) or not given[2] & writing:
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            return
        path = given[0]
        if not isinstance(path, str | bytes | os.PathLike) or inside not in f"{folder / os.fsdecode(path)}":
            return
        n += 1
        if n == at_change:
            fault()

    sys.addaudithook(hook)
    return lambda: n


def in_child(function: Callable[..., Any], *given: Any) -> Any:
    """Return what a function gives in a process of its own, so that this one starts no thread before it forks."""
    return _forked(function, *given)()


def ask_meanwhile(client: Client, seed: int) -> Callable[[], Any]:
    """Let a client ask on its own; what is returned waits for its findings."""
    return _forked(client.ask_until_stopped, seed)


def _forked(function: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(there, function, given))
    process.start()
    there.close()

    def result() -> Any:
        try:
            ended, value = here.recv()
        except EOFError:
            raise SystemExit(f"{function.__name__} ended without an answer") from None
        process.join()
        if not ended:
            raise SystemExit(f"{function.__name__}: {value}")
        return value

    return result


def _report(to: Connection, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    try:
        to.send((True, function(*given)))
    except BaseException as error:
        import traceback

        to.send((False, "".join(traceback.format_exception(error))))


# ---- what is shown -----------------------------------------------------------------------------------------


def _line(series: Series) -> str:
    moments = ", ".join(
        f"{kill['after']:.2f} s" + (f" (change {kill['at_change']})" if kill["at_change"] else "")
        for kill in series.kills
    )
    state = "equal" if series.equal else "NOT EQUAL"
    answers = f"; answers {series.answers}" if series.answers else ""
    wrong = f"; {'; '.join(series.wrong)}" if series.wrong else ""
    fresh = ", python -m" if series.fresh else ""
    case = f"{series.command} {series.number} ({series.case}{fresh})"
    return f"{case}: after {moments or 'nothing'}: {state}{answers}{wrong}"


def _table(done: Sequence[Series], commands: Sequence[str]) -> str:
    rows = [["command", "kills", "before a change", "series", "equal", "half-written", "left behind"]]
    for command in commands:
        own = [series for series in done if series.command == command]
        kills = [kill for series in own for kill in series.kills]
        wrong = [what for series in own for what in series.wrong]
        left = sum(what.endswith("is left") for what in wrong)
        damaged = sum(bool(re.match(r"\S+: ", what)) for what in wrong)
        rows.append([command, len(kills), sum(bool(kill["at_change"]) for kill in kills), len(own),
                     sum(series.equal for series in own), damaged, left])  # fmt: skip
    if len(rows) > 2:
        rows.append(["all", *(sum(row[i] for row in rows[1:]) for i in range(1, len(rows[0])))])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
