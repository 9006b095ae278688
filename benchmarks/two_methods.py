"""Two methods against one another over several results folders of `cotune bench` on the same posts.

    python benchmarks/two_methods.py joint concat RESULTS [RESULTS ...]
    python benchmarks/two_methods.py joint joint RESULTS --second-in OTHER   # the same method, trained in two ways

For each folder, each of its seeds, and over all of them: difference of AUC over all posts (first method minus second),
and in how many folds the second is ahead. Over all, the difference is the mean over trainings, with a 95 % interval by
a bootstrap over posts that draws each post in all trainings at once: it tells what these trained models owe to the
posts, and knows nothing of training again. Several seeds of a folder are also averaged post by post, as an ensemble.
With --second-in the second method's cells are those of another folder, which must have the same folds. Where a folder
holds a learning curve, the paired difference by number of training posts, mean and standard deviation over draws.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from cotune.benchmark import read_results
from cotune.benchmark.curves import curve_folds
from cotune.benchmark.results import Results, Row, RowKey
from cotune.metrics import roc_auc
from cotune.metrics.intervals import percentile_interval, resamples
from cotune.metrics.scores import ScoreSheet

_BOOTSTRAP = 2000


def main() -> None:
    """Print what the folders say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs=2, metavar="METHOD")
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--second-in", type=Path, metavar="OTHER")
    args = parser.parse_args()
    pairs, labels, ahead, n_folds = [], None, 0, 0
    for folder in args.results:
        results = read_results(folder)
        other = results if args.second_in is None else _same_folds(args.second_in, results, folder)
        first = _key(results, args.methods[0], folder)
        second = _key(other, args.methods[1], args.second_in or folder)
        if args.second_in is None:
            curve(results, first, second, folder)
        found = [one.rows.get(key) for one, key in ((results, first), (other, second))]
        rows = [row for row in found if row is not None and row.complete]
        if len(rows) < 2:
            continue
        order = np.argsort([str(identity) for identity in results.folds.ids])
        here = results.folds.targets[order]
        if labels is not None and not np.array_equal(labels, here):
            raise SystemExit(f"{folder} holds results of other posts than {args.results[0]}")
        labels = here
        seeds = sorted(set(rows[0].seeds) & set(rows[1].seeds))
        for seed in seeds:
            ones = [_of_seed(row, seed) for row in rows]
            pairs.append([_sheet(one.proba[0][order], labels) for one in ones])
            gaps = np.subtract(*(one.fold_aucs(results.folds) for one in ones))
            ahead, n_folds = ahead + int((gaps < 0).sum()), n_folds + len(gaps)
            name = f"{folder}, seed {seed}" if len(seeds) > 1 else str(folder)
            print_comparison(name, pairs[-1:], labels, int((gaps < 0).sum()), len(gaps))
        if len(seeds) > 1:
            ensemble(folder, args.methods, rows, seeds, labels, order)
    if len(pairs) > 1 and labels is not None:
        print_comparison("mean of all", pairs, labels, ahead, n_folds)


def print_comparison(name: str, pairs: list[list[ScoreSheet]], labels: np.ndarray, ahead: int, n_folds: int) -> None:
    """Print the mean difference of some pairs with its interval."""
    value = _gap(pairs, np.ones((1, len(labels))))[0]
    drawn = np.concatenate([_gap(pairs, block) for block in resamples(len(labels), _BOOTSTRAP, 0)])
    low, high = percentile_interval(drawn, 0.95)
    print(f"{name}: {value:+.4f} [{low:+.4f}, {high:+.4f}], second ahead in {ahead} of {n_folds} folds")


def ensemble(
    folder: Path, methods: list[str], rows: list[Row], seeds: list[int], labels: np.ndarray, order: np.ndarray
) -> None:
    """Print for each method the AUC of single seeds and that of their mean probabilities."""
    for method, row in zip(methods, rows, strict=True):
        each = [_of_seed(row, seed).proba[0][order] for seed in seeds]
        alone = [roc_auc(labels, proba) for proba in each]
        together = roc_auc(labels, np.mean(each, axis=0))
        print(
            f"{folder}, {method}: {np.mean(alone):.4f} ({min(alone):.4f} to {max(alone):.4f}) with one of "
            f"{len(seeds)} seeds, {together:.4f} with the mean of their probabilities"
        )


def curve(results: Results, first: RowKey, second: RowKey, folder: Path) -> None:
    """Print the paired difference at each size of a learning curve."""
    if not results.shots:
        return
    folds = curve_folds(results)
    print(f"{folder}, folds {', '.join(str(fold + 1) for fold in folds)}:")
    for size in sorted({size for key, size, _ in results.shots if key == first}):
        begun = [draw for key, shots, draw in results.shots if (key, shots) == (first, size)]
        draws = [draw for draw in begun if (second, size, draw) in results.shots]
        gaps = np.asarray(
            [np.mean((results.shots[first, size, n] - results.shots[second, size, n])[folds]) for n in draws]
        )
        spread = gaps.std(ddof=1) if len(gaps) > 1 else float("nan")
        ahead = f"first ahead in {(gaps > 0).sum()} of {len(gaps)} draws"
        print(f"  {size:>4} per class: {gaps.mean():+.4f} ± {spread:.4f}, {ahead}")


def _key(results: Results, method: str, folder: Path) -> RowKey:
    keys = {key for key in [*results.rows, *(key for key, _, _ in results.shots)] if key.method == method}
    if len(keys) != 1:
        raise SystemExit(f"{folder} holds {len(keys)} rows of {method}, not one")
    return keys.pop()


def _same_folds(folder: Path, results: Results, first: Path) -> Results:
    other = read_results(folder)
    same = all(
        np.array_equal(getattr(other.folds, name), getattr(results.folds, name)) for name in ("ids", "targets", "fold")
    )
    if not same:
        raise SystemExit(f"{folder} has other posts or folds than {first}")
    return other


def _of_seed(row: Row, seed: int) -> Row:
    at = row.seeds.index(seed)
    return replace(row, proba=row.proba[at : at + 1], seeds=[seed])


def _sheet(proba: np.ndarray, labels: np.ndarray) -> ScoreSheet:
    return ScoreSheet(labels, proba / proba.sum(axis=1, keepdims=True))


def _gap(pairs: list[list[ScoreSheet]], counts: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.mean([first.auc(counts) - second.auc(counts) for first, second in pairs], axis=0)
    return result


if __name__ == "__main__":
    main()
