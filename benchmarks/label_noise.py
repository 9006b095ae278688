"""How many planted wrong labels the list of `cotune check --run` finds.

    python benchmarks/label_noise.py posts.csv                   # a frozen run is trained on the posts first
    python benchmarks/label_noise.py demo --noise 0.1 --seeds 0,1,2

A part of the labels, drawn anew for each seed, is replaced by another label at random; then the posts are checked as
`cotune check --run` checks them: five grouped folds, frozen encoders, confident learning. Reported for each seed, and
as mean with range: precision of the first N posts of the ranking, N being the number of planted labels (their recall is
the same number); precision, recall and length of the list of labels taken for wrong; and the AUC of the score for
telling planted labels from others. Labels that were wrong before count as false alarms, so that precision is a lower
bound. A list in random order has the precision of the noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cotune.benchmark.folds import posts_of
from cotune.benchmark.label_issues import rank_labels
from cotune.benchmark.out_of_fold import out_of_fold
from cotune.data.posts import read_posts
from cotune.demo.posts import demo_posts_path
from cotune.environment import environment
from cotune.progress import TerminalProgress
from cotune.run import Run, load_run
from cotune.settings import make_config
from cotune.training.fit import fit_posts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", help="a posts table, or demo")
    parser.add_argument("--run", type=Path, help="a run whose encoders and settings are used")
    parser.add_argument("--noise", type=float, default=0.1, help="part of the labels that is replaced")
    parser.add_argument("--seeds", default="0,1,2", help="of the draw, the folds and the training")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    posts = read_posts(demo_posts_path() if args.posts == "demo" else args.posts, require_labels=True)
    posts = posts[posts["label"].notna()].reset_index(drop=True)
    run = load_run(args.run) if args.run else frozen_run(posts)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows = [{"seed": seed, **measured(posts, run, args.noise, args.folds, seed)} for seed in seeds]
    print(f"{len(posts):,} posts, {posts['label'].nunique()} labels, {args.noise:.0%} replaced, {args.folds} folds")
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(written(row[name]) for name in names)} |")
    spread = {name: [float(row[name]) for row in rows] for name in names[1:]}
    means = [f"{written(float(np.mean(v)))} ({written(min(v))} to {written(max(v))})" for v in spread.values()]
    print(f"| mean (range) | {' | '.join(means)} |")
    about = {key: value for key, value in environment(0, "", "cpu").items() if key not in ("data_hash", "seed")}
    print(about)
    if args.out is not None:
        args.out.write_text(json.dumps({"rows": rows, "environment": about}, indent=1), encoding="utf-8")


def frozen_run(posts: pd.DataFrame) -> Run:
    """Return a run on frozen bundled encoders, with the default settings."""
    return fit_posts(posts, make_config({"tune": "frozen"}), progress=TerminalProgress()).run


def measured(posts: pd.DataFrame, run: Run, noise: float, folds: int, seed: int) -> dict[str, Any]:
    """Plant wrong labels, and return how well they are found."""
    random = np.random.default_rng(seed)
    labels, names = posts["label"].tolist(), sorted(posts["label"].unique())
    planted = random.choice(len(posts), round(noise * len(posts)), replace=False)
    for at in planted:
        labels[at] = random.choice([name for name in names if name != labels[at]])
    noisy = posts.assign(label=pd.Series(labels, dtype=object))
    found = out_of_fold(noisy, run, folds=folds, seed=seed, progress=TerminalProgress())
    ranked = rank_labels(found.folds.task, found.folds.targets, found.predictions)
    rows = set(posts["row"].iloc[planted])
    wrong = posts_of(noisy, found.folds)["row"].isin(rows).to_numpy()
    first = np.argsort(ranked.quality, kind="stable")[: wrong.sum()]
    hits = int((wrong & ranked.wrong).sum())
    return {
        "planted": int(wrong.sum()),
        "precision at N": float(wrong[first].mean()),
        "list": int(ranked.wrong.sum()),
        "list precision": hits / max(1, int(ranked.wrong.sum())),
        "list recall": hits / int(wrong.sum()),
        "AUC": float(roc_auc_score(wrong, -ranked.quality)),
    }


def written(value: float) -> str:
    """Return a count, or a part with three digits."""
    return f"{value:,.0f}" if value > 1 or isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
