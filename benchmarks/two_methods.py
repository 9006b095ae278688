"""Two methods against one another over several results folders of `cotune bench` on the same posts.

    python benchmarks/two_methods.py joint concat RESULTS [RESULTS ...]

For each folder and over all of them: difference of AUC over all posts (first method minus second), and in how many
folds the second is ahead. Over all, the difference is the mean over folders, with a 95 % interval by a bootstrap over
posts that draws each post in all folders at once: it tells what these trained models owe to the posts, and knows
nothing of training anew. Where a folder holds a learning curve, the paired difference by number of training posts,
mean and standard deviation over draws. Of several seeds the first counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cotune.benchmark import read_results
from cotune.benchmark.curves import curve_folds
from cotune.benchmark.results import Results, RowKey
from cotune.metrics.intervals import percentile_interval, resamples
from cotune.metrics.scores import ScoreSheet

_BOOTSTRAP = 2000


def main() -> None:
    """Print what the folders say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs=2, metavar="METHOD")
    parser.add_argument("results", nargs="+", type=Path)
    args = parser.parse_args()
    pairs, labels, ahead, n_folds = [], None, 0, 0
    for folder in args.results:
        results = read_results(folder)
        first, second = (_key(results, method, folder) for method in args.methods)
        curve(results, first, second, folder)
        if not all(key in results.rows and results.rows[key].complete for key in (first, second)):
            continue
        order = np.argsort([str(identity) for identity in results.folds.ids])
        here = results.folds.labels[order]
        if labels is not None and not np.array_equal(labels, here):
            raise SystemExit(f"{folder} holds results of other posts than {args.results[0]}")
        labels = here
        sheets = [_sheet(results, key, order) for key in (first, second)]
        gaps = np.subtract(*(results.rows[key].fold_aucs(results.folds) for key in (first, second)))
        pairs.append(sheets)
        ahead, n_folds = ahead + int((gaps < 0).sum()), n_folds + len(gaps)
        told(str(folder), [sheets], labels, int((gaps < 0).sum()), len(gaps))
    if len(pairs) > 1 and labels is not None:
        told("mean of all", pairs, labels, ahead, n_folds)


def told(name: str, pairs: list[list[ScoreSheet]], labels: np.ndarray, ahead: int, n_folds: int) -> None:
    """Print the mean difference of some pairs with its interval."""
    value = _gap(pairs, np.ones((1, len(labels))))[0]
    drawn = np.concatenate([_gap(pairs, block) for block in resamples(len(labels), _BOOTSTRAP, 0)])
    low, high = percentile_interval(drawn, 0.95)
    print(f"{name}: {value:+.4f} [{low:+.4f}, {high:+.4f}], second ahead in {ahead} of {n_folds} folds")


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


def _sheet(results: Results, key: RowKey, order: np.ndarray) -> ScoreSheet:
    proba = results.rows[key].proba[0][order]
    return ScoreSheet(results.folds.labels[order], proba / proba.sum(axis=1, keepdims=True))


def _gap(pairs: list[list[ScoreSheet]], counts: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.mean([first.auc(counts) - second.auc(counts) for first, second in pairs], axis=0)
    return result


if __name__ == "__main__":
    main()
