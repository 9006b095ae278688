"""Calibration and a policy on stored out-of-fold predictions: no training, a minute.

    python benchmarks/decisions.py --cells benchmarks/results/main --method joint

The predictions are those of a finished `cotune bench`: each post's by the model of its fold, which has not seen it.
Over many resamplings the posts are cut at random, one part to fit the temperature and choose the thresholds on (the
labelled posts), the rest not seen. Printed are calibration error and log loss of the unseen part before and after (mean
and standard deviation over the resamplings), and for every class and target the share of resamplings in which the
precision or recall on unseen posts kept the target (one without a threshold promises nothing, and keeps it), how often
a threshold was found, and how many posts took the route.

The precision on unseen posts is itself an estimate, from a few hundred posts acted on: it falls below the target by
chance where the true one lies just above. "Held, true" therefore draws, with --draws, both parts from the pooled posts
with replacement, and takes the precision on the whole pool as the true one; that is the share the bound is about.
"""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from cotune.benchmark.predictions import read
from cotune.decide.thresholds import act_threshold, allow_threshold
from cotune.environment import processor
from cotune.metrics import evaluate
from cotune.metrics.temperature import at_temperature, fit_temperature


def main() -> None:
    """Read, resample, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/results/main"))
    parser.add_argument("--method", default="joint")
    parser.add_argument("--classes", default="negative,neutral,positive", help="in the order of the probabilities")
    parser.add_argument("--labelled", type=float, default=0.5, help="part of the posts that thresholds are chosen on")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    y, proba = pooled(args.cells, args.method)
    classes = args.classes.split(",")
    print(f"{args.cells} {args.method}: {len(y):,} posts, {args.draws} resamplings, {args.labelled:.0%} labelled, "
          f"confidence {args.confidence:g}, seed {args.seed}")  # fmt: skip
    calibration(y, proba, args)
    heads = zip(("found", "held, unseen", "held, true", "median on unseen", "route"), (7, 14, 12, 18, 8), strict=True)
    print(f"\n{'class':10}{'target':18}" + "".join(f"{head:>{width}}" for head, width in heads))
    for k, name in enumerate(classes):
        for route in ("precision", "recall"):
            for target in (0.8, 0.9, 0.95):
                print(f"{name:10}{f'{route} {target:g}':18}" + policy(y == k, proba[:, k], route, target, args))
    print({"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(),
           **{name: metadata.version(name) for name in ("numpy", "scipy")}})  # fmt: skip


def pooled(cells: Path, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and out-of-fold probabilities of all posts."""
    labels = pd.read_parquet(cells / "folds.parquet").set_index("id")["label"]
    records = [record for record in read(cells) if record.cell.method == method]
    ids = [id_ for record in records for id_ in record.ids]
    proba = np.concatenate([record.proba for record in records]).astype(np.float64)
    return labels.loc[ids].to_numpy(), proba / proba.sum(axis=1, keepdims=True)


def calibration(y: np.ndarray, proba: np.ndarray, args: argparse.Namespace) -> None:
    """Print calibration error and log loss of unseen posts, before and after."""
    rng = np.random.default_rng(args.seed)
    rows, temperatures, names = [], [], [str(k) for k in range(proba.shape[1])]
    for _ in range(args.draws):
        mine, rest = cut(rng, len(y), args.labelled)
        temperatures.append(fit_temperature(y[mine], proba[mine]))
        both = (proba[rest], at_temperature(proba[rest], temperatures[-1]))
        found = [evaluate(y[rest], each, names, n_bootstrap=0).scores for each in both]
        rows.append([each[name].value for name in ("calibration_error", "log_loss") for each in found])
    low, high = np.quantile(temperatures, [0.025, 0.975])
    print(f"temperature {np.mean(temperatures):.3f} ({low:.3f} to {high:.3f} in 95 % of the resamplings)")
    mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
    for i, name in enumerate(("calibration error", "log loss")):
        before, after = (f"{mean[j]:.4f} ± {spread[j]:.4f}" for j in (2 * i, 2 * i + 1))
        print(f"{name:20} before {before}   after {after}")


def policy(positive: np.ndarray, scores: np.ndarray, route: str, target: float, args: argparse.Namespace) -> str:
    """Return a row: how often a threshold was found, and how often what it promised held."""
    rng = np.random.default_rng(args.seed)
    unseen, parts, true = [], [], []
    choose = act_threshold if route == "precision" else allow_threshold
    for _ in range(args.draws):
        mine, rest = cut(rng, len(positive), args.labelled)
        chosen = choose(positive[mine], scores[mine], target, args.confidence)
        if chosen is not None:
            unseen.append(kept(positive[rest], scores[rest], route, chosen.value))
            part = scores[rest] > chosen.value if route == "precision" else scores[rest] < chosen.value
            parts.append(part.mean())
        again = rng.integers(len(positive), size=len(mine))
        chosen = choose(positive[again], scores[again], target, args.confidence)
        if chosen is not None:
            true.append(kept(positive, scores, route, chosen.value) >= target)
    if not unseen:
        return f"{0:>7.0%}"
    # Where no threshold is found, nothing is promised, and nothing is broken.
    held = 1 - (np.asarray(unseen) < target).sum() / args.draws
    true_held = 1 - (len(true) - sum(true)) / args.draws
    return (f"{len(unseen) / args.draws:>7.0%}{held:>14.1%}{true_held:>12.1%}{np.median(unseen):>18.4f}"
            f"{np.mean(parts):>8.1%}")  # fmt: skip


def kept(positive: np.ndarray, scores: np.ndarray, route: str, value: float) -> float:
    """Return the precision above a threshold, or the recall that is left when posts below it are allowed."""
    if route == "precision":
        return float(positive[scores > value].mean()) if (scores > value).any() else 1.0
    return float((scores[positive] >= value).mean())


def cut(rng: np.random.Generator, n: int, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the labelled posts, and those of the rest."""
    order = rng.permutation(n)
    return order[: round(n * part)], order[round(n * part) :]


if __name__ == "__main__":
    main()
