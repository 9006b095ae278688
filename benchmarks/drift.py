"""False alarms of `cotune drift` between random halves of one table, and what it says of another table.

    python benchmarks/drift.py RUN posts.csv --other others.csv --halves 200  # 3 s a pair

RUN is best trained on neither; all posts are scored once, then random halves are compared, `--sample` posts of each.
Prints the share of halves with each verdict, and with any sign, whose bound is .05, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from cotune._version import __version__
from cotune.data.images.load import image_pixels
from cotune.data.posts import ColumnNames, read_posts
from cotune.drift.compare import Drift, compare, sample_posts, summarise_new
from cotune.drift.summary import PostsSummary, counted
from cotune.predict import Predictor
from cotune.progress import TerminalProgress
from cotune.run import Run, load_run


class Table:
    """Posts that were scored once, any of which make a summary."""

    def __init__(self, run: Run, posts: pd.DataFrame) -> None:
        self.run, self.posts = run, posts
        self.whole = summarise_new(Predictor(run, bad_images="text-only"), posts, TerminalProgress())
        self.numbers = {
            one.name: (one.kind, np.array([_number(one.kind, value) for value in posts[one.name]], dtype=float))
            for one in run.fields
            if one.kind in ("text", "image")
        }

    def summary(self, rows: np.ndarray) -> PostsSummary:
        """Return the summary of the posts at `rows`."""
        units = {"text": "characters", "image": "pixels"}
        measures = {
            f"{units[kind]} of {name}": part[rows][~np.isnan(part[rows])] for name, (kind, part) in self.numbers.items()
        }
        labels = self.whole.labels
        whole = labels is not None and len(labels) == len(self.posts)
        predicted = self.whole.predicted
        return PostsSummary(
            {name: part[rows] for name, part in self.whole.embeddings.items()},
            labels[rows] if whole and labels is not None else None,
            None if predicted is None else predicted[rows],
            measures,
            counted(self.posts.iloc[rows], self.run.fields, 0, (0, len(rows))),
            {"unseen": True, "encoders_trained": False, "posts": len(rows), "sampled": len(rows)},
        )


def _number(kind: str, value: object) -> float:
    if value is None:
        return float("nan")
    return float(len(str(value))) if kind == "text" else float(image_pixels(value) or "nan")  # type: ignore[arg-type]


def _compared(table: Table, known: np.ndarray, other: Table, new: np.ndarray, seed: int) -> Drift:
    posts = other.posts.iloc[new]
    return compare(table.summary(known), other.summary(new), posts, table.run.task, n_permutations=400, seed=seed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--other", type=Path, help="a table that is different; texts alone will do")
    parser.add_argument("--halves", type=int, default=200)
    parser.add_argument("--sample", type=int, default=500)
    parser.add_argument("--most", type=int, default=10_000, help="posts read of each table")
    given = parser.parse_args()
    run = load_run(given.run)
    names = ColumnNames(fields=run.fields)

    def opened(path: Path) -> Table:
        return Table(run, sample_posts([read_posts(path, columns=names)], given.most, 0)[0])

    table = opened(given.posts)
    n, rng = len(table.posts), np.random.default_rng(0)
    verdicts: Counter[str] = Counter()
    alarms: Counter[str] = Counter()
    for seed in range(given.halves):
        order = rng.permutation(n)
        half = min(given.sample, n // 2)
        found = _compared(table, order[:half], table, order[n // 2 : n // 2 + half], seed)
        verdicts[found.verdict] += 1
        alarms.update(test.what for test in found.tests if test.p_value is not None and test.p_value < 0.05)
    signs = given.halves - verdicts["none"]
    low, high = binomtest(signs, given.halves).proportion_ci()
    print(f"\n{n:,} posts of {given.posts.name}, {given.halves} pairs of random halves, {half} posts of each")
    print(f"| any sign of a shift | {signs} of {given.halves}, {signs / given.halves:.1%} ({low:.1%} to {high:.1%}) |")
    print(f"| verdicts | {dict(verdicts)} |")
    for what, count in sorted(alarms.items()):
        print(f"| {what}, p < .05 alone | {count / given.halves:.1%} |")
    if given.other is not None:
        other = opened(given.other)
        rows = rng.permutation(len(other.posts))[: given.sample]
        found = _compared(table, rng.permutation(n)[: given.sample], other, rows, 0)
        print(
            f"\n{len(rows)} posts of {given.other.name} against {given.sample} of {given.posts.name}: {found.verdict}"
        )
        print("| compared | difference | p | corrected p | |\n|---|---|---|---|---|")
        for test in found.tests:
            if test.value is not None:
                corrected = "-" if test.p_adjusted is None else f"{test.p_adjusted:.4f}"
                print(f"| {test.what} | {test.measure} {test.value:.3f} | {test.p_value:.4f} | {corrected} "
                      f"| {test.detail} |")  # fmt: skip
    print(f"\ncotune {__version__}, torch {torch.__version__}, {os.cpu_count()} cores, {platform.processor()}, seed 0")


if __name__ == "__main__":
    csv.field_size_limit(2**24)
    main()
