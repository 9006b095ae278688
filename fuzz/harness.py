"""Give one reader inputs that a coverage-guided fuzzer (atheris) makes up; `fuzz/run.py` starts it.

    python fuzz/harness.py TARGET OUT FOLDER [options of libFuzzer] CORPUS

A target is a module of fuzz/targets: `seeds()` returns inputs to begin with, `WORDS` what is worth trying in one, and
`read(data, folder)` reads `data`, for which it may write files into FOLDER. It may refuse with a `CotuneError` whose
message is of bounded length; anything else that leaves it is a crash. A crash does not end the run: the first input of
each kind is written to OUT/crashes, with its traceback. What kills the process (a hang, memory, a native crash) is
found and kept by libFuzzer itself, in the same folder.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
TARGETS = Path(__file__).parent / "targets"
#: Longest message that a refusal may have, in characters.
LONGEST = 2_000

_EVERY = 500


class CrashError(Exception):
    """What a reader must not do."""


def target_names() -> list[str]:
    """Return the names of all targets."""
    return sorted(path.stem for path in TARGETS.glob("*.py") if not path.stem.startswith("_"))


def open_target(name: str) -> ModuleType:
    """Import a target."""
    for folder in (ROOT / "fuzz", ROOT / "tests", ROOT / "src"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f"targets.{name}")


def try_input(target: ModuleType, data: bytes, folder: Path) -> bool:
    """Read one input; return whether it was accepted.

    Raises
    ------
    CrashError
        If it was refused in another way than by one line for the user.
    """
    from cotune.errors import CotuneError

    try:
        target.read(data, folder)
    except CotuneError as error:
        length = len(" ".join(str(error).split()))  # as the command line prints it
        if not 0 < length <= LONGEST:
            raise CrashError(f"a {type(error).__name__} whose message has {length:,} characters") from error
        return False
    return True


def place_of(error: BaseException) -> str:
    """Return what kind of error it is and where in the project it came up, by which crashes are told apart."""
    chain = error.__cause__ if isinstance(error, CrashError) and error.__cause__ is not None else error
    frames = traceback.extract_tb(chain.__traceback__)
    own = [frame for frame in frames if "/cotune/" in frame.filename] or frames
    return f"{type(error).__name__} {Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"


def fuzz(name: str, out: Path, folder: Path, arguments: list[str]) -> None:
    """Fuzz until libFuzzer's options end it."""
    import atheris

    with atheris.instrument_imports(include=["cotune", "yaml", "openpyxl"], enable_loader_override=False):
        target = open_target(name)
        importlib.import_module("cotune.errors")
    crashes = out / "crashes"
    crashes.mkdir(parents=True, exist_ok=True)
    known: set[str] = set()
    accepted = Counter(out / "accepted")

    def one_input(data: bytes) -> None:
        try:
            accepted.add(try_input(target, data, folder))
        except Exception as error:
            place = place_of(error)
            if place not in known:
                known.add(place)
                crash = crashes / f"{hashlib.sha256(place.encode()).hexdigest()[:12]}"
                crash.write_bytes(data)
                crash.with_suffix(".txt").write_text(place + "\n\n" + traceback.format_exc(), encoding="utf-8")
                print(f"CRASH {place}", file=sys.stderr, flush=True)

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


class Counter:
    """Counts what was accepted, in a file, as libFuzzer ends the process without a word to Python.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._tried, self._accepted = path, 0, 0

    def add(self, accepted: bool) -> None:
        """Count one input."""
        self._tried += 1
        self._accepted += accepted
        if self._tried % _EVERY == 1:
            self._path.write_text(f"{self._accepted / self._tried:.4f}", encoding="ascii")


if __name__ == "__main__":
    fuzz(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
