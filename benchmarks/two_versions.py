"""Two versions of cotune side by side: seconds and memory of a cold fit, a warm fit and predictions.

    git worktree add /tmp/before COMMIT
    python benchmarks/two_versions.py POSTS --before /tmp/before/src --repeats 5

Both versions run in this Python, or the other one in that of `--before-python` where they need other packages, one
right after the other and in alternating order, each with a cache of its own that is empty before the first fit.
Reported are the medians and, of the ratios after / before of all pairs, median and range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from memory import peak

from cotune.environment import environment

STEPS = ("cold fit", "warm fit", "predict", "one post")
_HERE = Path(__file__).resolve().parent.parent / "src"


def command(step: str, folder: Path, posts: Path) -> list[str]:
    """Return the arguments of one step, which works in `folder`."""
    if step == "predict":
        return ["predict", f"{folder}/run-cold", str(posts), "--out", f"{folder}/predictions.csv"]
    if step == "one post":
        return ["predict", f"{folder}/run-cold", "--text", "a lovely day"]
    run = folder / ("run-cold" if step == "cold fit" else "run-warm")
    return ["fit", str(posts), "--out", str(run), "--cache", f"{folder}/cache"]


def measure(arguments: list[str], source: Path, python: str) -> tuple[float, float]:
    """Run a command of cotune with the code in `source`; return seconds and the peak memory in GB."""
    variables = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    memory, seconds = peak([python, "-m", "cotune", *arguments], variables)
    return seconds, memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="the src folder of the other version")
    parser.add_argument("--before-python", default=sys.executable, help="the Python to run it in; this one by default")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    sources = {"before": (args.before, args.before_python), "after": (_HERE, sys.executable)}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for repeat in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                for name in sorted(sources, reverse=repeat % 2 == 0):
                    result = measure(command(step, Path(folder, name), args.posts), *sources[name])
                    found.setdefault(step, {}).setdefault(name, []).append(result)
        print(f"repeat {repeat + 1} of {args.repeats} done", file=sys.stderr)
    for step, of in found.items():
        for what, unit, at in (("seconds", "s", 0), ("peak memory", "GB", 1)):
            before, after = ([each[at] for each in of[name]] for name in ("before", "after"))
            ratios = [b / a for a, b in zip(before, after, strict=True)]
            print(
                f"{step:<9} {what:<12} before {statistics.median(before):7.2f} {unit}, after "
                f"{statistics.median(after):7.2f} {unit}, after / before {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f})"
            )
    print({key: value for key, value in environment(0, "", "cpu").items() if key != "data_hash"})


if __name__ == "__main__":
    main()
