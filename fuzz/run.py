"""Fuzz the readers of everything that strangers may hand over, each for a bounded time.

    python fuzz/run.py [--seconds 60] [--only csv_table policy ...] [--out fuzz-results] [--json FILE]

What a target is: fuzz/harness.py. The corpus is made by the targets themselves and grows in OUT/TARGET/corpus from run to
run; inputs that crash a reader lie in OUT/TARGET/crashes with their tracebacks. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import ROOT, open_target, target_names

#: An input that takes longer than so many seconds, or more memory than so many MiB, is a crash.
TIMEOUT, MEMORY = 10, 4_096
LONGEST_INPUT = 8_192
#: A folder in memory, as every input is written to a file.
SHM = Path("/dev/shm")  # noqa: S108 - tempfile makes a folder of its own there


@dataclass
class Result:
    """What fuzzing one target gave.

    Attributes
    ----------
    target : str
        Its name.
    seconds : float
        How long it ran.
    executions : int
        Inputs read.
    accepted : float
        Share of them that was accepted.
    coverage : int
        Edges of the program that were reached.
    crashes : list of str
        Kinds of crashes.
    """

    target: str
    seconds: float
    executions: int
    accepted: float
    coverage: int
    crashes: list[str]


def main() -> int:
    """Fuzz and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="time of each target")
    parser.add_argument("--only", nargs="+", choices=target_names(), default=target_names(), metavar="TARGET")
    parser.add_argument("--out", type=Path, default=ROOT / "fuzz-results")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    found = []
    for name in args.only:
        found.append(fuzz(name, args.out / name, args.seconds, args.seed))
        print(line(found[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in found], indent=1) + "\n", encoding="utf-8")
    executions, crashes = sum(result.executions for result in found), sum(len(result.crashes) for result in found)
    print(f"{len(found)} targets, {executions:,} executions, {crashes} crashes")
    for result in found:
        for crash in result.crashes:
            print(f"  {result.target}: {crash}; see {args.out / result.target / 'crashes'}")
    return 1 if crashes else 0


def line(result: Result) -> str:
    """Return a result as a line for people."""
    return (
        f"{result.target:18} {result.executions:>10,} executions in {result.seconds:5.0f} s, "
        f"{100 * result.accepted:4.1f} % accepted, coverage {result.coverage:,}, {len(result.crashes)} crashes"
    )


def fuzz(name: str, out: Path, seconds: int, seed: int) -> Result:
    """Run the harness on one target in a process of its own."""
    corpus, crashes = out / "corpus", out / "crashes"
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for old in crashes.iterdir():
        old.unlink()
    target = open_target(name)
    for i, content in enumerate(target.seeds()):
        (corpus / f"seed-{i:03}").write_bytes(content)
    words = out / "words.dict"
    words.write_text("".join(f'"{escaped(word)}"\n' for word in target.WORDS), encoding="ascii")
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST_INPUT}", f"-dict={words}",
        f"-seed={seed}", f"-artifact_prefix={crashes}/", "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    harness = str(ROOT / "fuzz" / "harness.py")
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    begun = time.perf_counter()
    with (
        (out / "log.txt").open("wb") as log,
        TemporaryDirectory(prefix="cotune-fuzz-", dir=SHM if SHM.is_dir() else None) as folder,
    ):
        # What a target writes besides, such as a run to open, goes there too.
        own = {**os.environ, **quiet, "TMPDIR": folder}
        command = [sys.executable, harness, name, str(out), folder, *options]
        done = subprocess.run(command, stdout=log, stderr=log, env=own, check=False)
    taken = time.perf_counter() - begun
    text = (out / "log.txt").read_text(encoding="utf-8", errors="replace")
    kinds = [path.read_text(encoding="utf-8").splitlines()[0] for path in sorted(crashes.glob("*.txt"))]
    kinds += [f"the process died ({path.name.partition('-')[0]})" for path in sorted(crashes.glob("*-*"))]
    if done.returncode and not kinds:
        kinds.append(f"the process ended with {done.returncode}; see {out / 'log.txt'}")
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text) or re.findall(r"^#(\d+)", text, re.M)
    coverage = re.findall(r"cov: (\d+)", text)
    accepted = out / "accepted"
    return Result(
        name, round(taken, 1), int(executions[-1]) if executions else 0,
        float(accepted.read_text(encoding="ascii")) if accepted.is_file() else 0.0,
        int(coverage[-1]) if coverage else 0, kinds,
    )  # fmt: skip


def escaped(word: str) -> str:
    """Return a word as a dictionary of libFuzzer holds it."""
    return "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in word.encode())


if __name__ == "__main__":
    sys.exit(main())
