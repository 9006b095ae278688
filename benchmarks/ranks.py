"""Whether two processes train what one trains: AUC of held-out posts and losses, side by side.

    python benchmarks/ranks.py posts.csv [--seeds 1,2,3] [--devices 2] [--set tune=top ...]

For each seed `cotune fit` is called with one and with several devices on the same posts, a quarter of which are held
out, once with the defaults and once without the head's dropout; that of the encoders each process draws for itself.
Reported are the AUC of the held-out posts, the largest difference between the training losses of an epoch, and the
seconds taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WITHOUT = ["--set", "dropout=0", "--set", "modality-dropout=0"]


def fit(posts: Path, out: Path, words: list[str]) -> dict[str, Any]:
    """Call `cotune fit`, and return its metrics with the seconds that it took."""
    command = [sys.executable, "-m", "cotune", "fit", str(posts), "--out", str(out), "--validation", "0.25", "--json"]
    started = time.perf_counter()
    done = subprocess.run([*command, *words], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return {**json.loads(done.stdout or (out / "metrics.json").read_text()), "wall": time.perf_counter() - started}


def main() -> None:
    """Train, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    more = [word for pair in given.set for word in ("--set", pair)]
    columns = ("dropout", "seed", "AUC, 1", f"AUC, {given.devices}", "difference", "largest gap of a loss", "seconds")
    table = Table(*columns)
    gaps: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, extra in (("as it is", []), ("none", WITHOUT)):
            for seed in given.seeds.split(","):
                found = []
                for n in (1, given.devices):
                    words = ["--seed", seed, "--devices", str(n), *more, *extra]
                    found.append(fit(given.posts, Path(folder) / f"{name}-{seed}-{n}", words))
                aucs = [run["validation"]["scores"]["auc"]["value"] for run in found]
                losses = [[row["train_loss"] for row in run["history"]] for run in found]
                gap = max(abs(a - b) for a, b in zip(*losses, strict=True))
                gaps.setdefault(name, []).append(aucs[1] - aucs[0])
                walls = " / ".join(f"{run['wall']:.0f}" for run in found)
                difference = f"{aucs[1] - aucs[0]:+.4f}"
                table.add_row(name, seed, *(f"{auc:.4f}" for auc in aucs), difference, f"{gap:.1e}", walls)
    Console(width=110).print(table)
    for name, values in gaps.items():
        mean = statistics.mean(values)
        print(f"dropout {name}: mean difference {mean:+.4f}, {min(values):+.4f} to {max(values):+.4f}")


if __name__ == "__main__":
    main()
