"""Peak resident memory of `cotune fit` and `cotune predict`, and whether it grows with the number of posts.

    python benchmarks/memory.py posts.csv [--times 1,3] [--epochs 1] [--work DIR] [--out FILE.json]

Each size is a table of its own that holds the posts that many times; copies of a picture differ in a few bytes at
their end, which no decoder reads, and copies of a text in a number, so that nothing is found in the cache twice.
Training (`top`) and predicting run as processes of their own with an empty cache; what is reported is the largest
resident set that the kernel saw, file pages included. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.files import write_json


def main() -> None:
    """Measure every size in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--times", default="1,3", help="how often the table holds every post")
    parser.add_argument("--epochs", type=int, default=1, help="memory does not grow after the first")
    parser.add_argument("--work", type=Path, help="folder for copies and cache; a temporary one by default")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    posts = read_posts(args.posts, require_labels=True)
    rows = []
    for times in (int(word) for word in args.times.split(",")):
        work = Path(tempfile.mkdtemp(dir=args.work, prefix="cotune-memory-"))
        try:
            rows.append(measure(posts, times, work, args.epochs))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        peak = rows[-1]
        print(
            f"{peak['posts']:>7,} posts  fit {peak['fit_gb']:.2f} GB in {peak['fit_seconds']:.0f} s"
            f"  predict {peak['predict_gb']:.2f} GB in {peak['predict_seconds']:.0f} s",
            flush=True,
        )
        if args.out:
            about = {**environment(42, None, "cpu"), "command": None}
            write_json(args.out, {"epochs": args.epochs, "sizes": rows, "environment": about})


def measure(posts: pd.DataFrame, times: int, work: Path, epochs: int) -> dict[str, Any]:
    """Train and predict on `times` copies of the posts."""
    table = copies(posts, times, work)
    command = [sys.executable, "-m", "cotune"]
    cache = ["--cache", str(work / "cache")]
    more = ["--tune", "top", "--epochs", str(epochs), "--min-epochs", "1"]
    fit = peak([*command, "fit", str(table), "--out", str(work / "run"), *cache, *more])
    predict = peak([*command, "predict", str(work / "run"), str(table), "--out", str(work / "predictions.csv")])
    return {
        "posts": len(posts) * times,
        "fit_gb": fit[0],
        "fit_seconds": fit[1],
        "predict_gb": predict[0],
        "predict_seconds": predict[1],
    }


def copies(posts: pd.DataFrame, times: int, work: Path) -> Path:
    """Write the table and its pictures."""
    folder = work / "pictures"
    folder.mkdir(parents=True)
    parts = []
    for number in range(times):
        part = posts[["text", "image", "label"]].copy()
        part.insert(0, "id", [f"{number}-{identity}" for identity in posts["id"]])
        part["text"] = [f"{text} {number}" if isinstance(text, str) and number else text for text in part["text"]]
        part["image"] = [copy(path, folder, number) if isinstance(path, str) else None for path in part["image"]]
        parts.append(part)
    table = work / "posts.csv"
    pd.concat(parts).to_csv(table, index=False)
    return table


def copy(path: str, folder: Path, number: int) -> str:
    """Copy a picture whose bytes, but not its pixels, are those of no other copy."""
    target = folder / f"{number}-{Path(path).name}"
    target.write_bytes(Path(path).read_bytes() + b"%d" % number)
    return str(target)


def peak(command: list[str], variables: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Run a command; return its peak resident set in GB (10^9 bytes) and the seconds it took.

    `variables` is its environment, if not this process's own.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    printed = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[2:4])} failed: {printed.decode(errors='replace')[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_maxrss * unit / 1e9, time.perf_counter() - started


if __name__ == "__main__":
    main()
