"""The readers of untrusted files, given what the fuzzer begins with, and changes of it; `make fuzz` tries far more."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cotune.errors import DataError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "fuzz"))

from harness import LONGEST, CrashError, open_target, place_of, target_names, try_input  # noqa: E402
from run import Result, escaped, line  # noqa: E402

#: It opens whole runs, which takes long; tests/test_untrusted_runs.py has runs of that kind.
SLOW = {"run_config"}
QUICK = [name for name in target_names() if name not in SLOW]
CHANGED = 12


def mutated(data: bytes, words: tuple[str, ...], draw: random.Random) -> bytes:
    """Return an input with a few changes of the kinds that a fuzzer makes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            changed[at : at + draw.randint(0, 3)] = draw.choice(words).encode()
        elif kind == 1:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            del changed[at : at + draw.randint(1, 20)]
        else:
            changed[at:at] = changed[: draw.randint(1, 30)]
    return bytes(changed)


@pytest.mark.parametrize("name", QUICK)
def test_a_reader_accepts_seeds_and_refuses_changes_of_them_in_a_line(name: str, tmp_path: Path) -> None:
    target = open_target(name)
    seeds = target.seeds()
    assert sum(try_input(target, seed, tmp_path) for seed in seeds) >= len(seeds) / 3
    draw = random.Random(name)
    for i in range(CHANGED):
        try_input(target, mutated(seeds[i % len(seeds)], target.WORDS, draw), tmp_path)


def reader(raised: Exception) -> Any:
    def read(data: bytes, folder: Path) -> None:
        raise raised

    return SimpleNamespace(read=read)


def test_only_refusals_of_bounded_length_are_no_crash(tmp_path: Path) -> None:
    assert not try_input(reader(DataError("row 3 has no label")), b"", tmp_path)
    for message in ("", "x" * (LONGEST + 1)):
        with pytest.raises(CrashError, match="message has"):
            try_input(reader(DataError(message)), b"", tmp_path)
    with pytest.raises(KeyError) as caught:
        try_input(reader(KeyError("blocks")), b"", tmp_path)
    assert place_of(caught.value).startswith("KeyError test_fuzz.py:")


def test_words_and_results_are_written_as_libfuzzer_and_people_read_them() -> None:
    assert escaped('a"\\\n\u00e9') == "a\\x22\\x5c\\x0a\\xc3\\xa9"
    assert "12 executions in     3 s, 50.0 % accepted" in line(Result("grid", 3.0, 12, 0.5, 9, []))


def test_the_fuzzer_finds_a_crash_that_was_planted(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="make fuzz installs it")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import harness; from types import SimpleNamespace\n"
        "def read(data, folder):\n    if data[:2] == b'ab': raise KeyError('planted')\n"
        "harness.open_target = lambda name: SimpleNamespace(read=read)\n"
        "from pathlib import Path; out = Path(sys.argv[2])\n"
        "harness.fuzz('planted', out, out, ['-runs=2000', '-seed=1', str(out / 'corpus')])\n"
    )
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "seed").write_bytes(b"abc")
    command = [sys.executable, "-c", code, str(ROOT / "fuzz"), str(tmp_path)]
    subprocess.run(command, capture_output=True, check=False, timeout=120)
    (found,) = (tmp_path / "crashes").glob("*.txt")
    assert found.read_text().startswith("KeyError ")
    assert found.with_suffix("").read_bytes()[:2] == b"ab"
