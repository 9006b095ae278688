"""Scores of rows with intervals, and paired tests of each row against joint fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cotune.benchmark.folds import Folds
from cotune.benchmark.plan import ANCHOR
from cotune.benchmark.results import Results, Row, RowKey
from cotune.metrics import Estimate, delong_test, holm, paired_p
from cotune.metrics.intervals import percentile_interval, resamples
from cotune.tasks import Task

BOOTSTRAP = 2000
Resampled = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Test:
    """How a row compares with the anchor; differences are anchor minus row.

    Attributes
    ----------
    difference, low, high, p, p_holm
        Of the AUC over all posts: DeLong's test for two classes and one seed, else a paired bootstrap over posts.
    fold_difference, fold_p, fold_p_holm
        Of the folds' AUCs: the corrected resampled t-test of Nadeau & Bengio (2003).
    name : str
        Which test over posts it was.
    """

    difference: float
    low: float
    high: float
    p: float
    fold_difference: float
    fold_p: float
    name: str
    p_holm: float = math.nan
    fold_p_holm: float = math.nan


@dataclass
class Summary:
    """One row of Table 1.

    Attributes
    ----------
    key : RowKey
        Which row.
    folds_done, folds : int
        How many folds are finished, out of how many.
    auc_mean, auc_std : float
        Mean and standard deviation (n - 1) over folds.
    fold_aucs : ndarray
        AUC of each fold.
    scores : dict of str to Estimate
        The task's scores over all posts with 95 % intervals; empty until all folds are done.
    parameters, trained : float
        Numbers of parameters, of all and of those that training moved; NaN if unknown.
    seconds : float
        Mean time of a fold.
    test : Test or None
        Against the anchor.
    emap : ndarray or None
        AUC before and after the additive projection by fold, shape (folds, 2).
    emap_loss : Estimate or None
        AUC over all posts that the projection loses, with its interval.
    """

    key: RowKey
    folds_done: int
    folds: int
    auc_mean: float
    auc_std: float
    fold_aucs: np.ndarray
    scores: dict[str, Estimate]
    parameters: float
    trained: float
    seconds: float
    test: Test | None = None
    emap: np.ndarray | None = None
    emap_loss: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all figures by name, for programs."""
        return {
            **asdict(self.key),
            "folds_done": self.folds_done,
            "folds": self.folds,
            "auc_mean": self.auc_mean,
            "auc_std": self.auc_std,
            "fold_aucs": self.fold_aucs,
            "scores": {name: estimate.to_dict() for name, estimate in self.scores.items()},
            "parameters": self.parameters,
            "trained": self.trained,
            "seconds": self.seconds,
            "against_joint": None if self.test is None else asdict(self.test),
            "emap": self.emap,
            "emap_loss": None if self.emap_loss is None else self.emap_loss.to_dict(),
        }


def summarise(results: Results, *, n_bootstrap: int = BOOTSTRAP, seed: int = 0) -> list[Summary]:
    """Return one summary for each row, in the rows' order.

    With several seeds every score is the mean over seeds, on the same resamples of the posts.
    """
    folds = results.folds

    def resampled() -> Iterator[np.ndarray]:  # made again for each row: all of them may not fit into memory
        return resamples(len(folds.targets), n_bootstrap, seed)

    draws: dict[RowKey, np.ndarray] = {}
    summaries = []
    for key, row in results.rows.items():
        aucs = row.fold_aucs(results.folds)
        known = aucs[~np.isnan(aucs)]
        scores: dict[str, Estimate] = {}
        if row.complete:
            scores, draws[key] = scored(folds.task, folds.targets, row.proba, resampled, folds.table_scores)
        summary = Summary(
            key,
            row.folds_done(folds),
            len(aucs),
            float(known.mean()) if len(known) else math.nan,
            float(known.std(ddof=1)) if len(known) > 1 else math.nan,
            aucs,
            scores,
            row.mean("total"),
            row.mean("trained"),
            row.mean("seconds"),
        )
        if row.emap is not None and row.complete:
            summary.emap = row.fold_aucs(results.folds, emap=True)
            summary.emap_loss = _emap_loss(folds, row, resampled)
        summaries.append(summary)
    _test_all(results, summaries, draws)
    return summaries


def scored(
    task: Task, targets: np.ndarray, tables: np.ndarray, resampled: Resampled, names: Sequence[str] | None = None
) -> tuple[dict[str, Estimate], np.ndarray]:
    """Return the scores of predictions with 95 % intervals, means over seeds, and the main score of each resample.

    Parameters
    ----------
    task : Task
        What the targets mean.
    targets : ndarray
        Of the posts, shape (N,) or (N, n_outputs).
    tables : ndarray
        Predictions, shape (seeds, N, n_outputs).
    resampled : callable
        Gives blocks of resamples of the posts, the same at every call.
    names : sequence of str, optional
        Which scores; the task's `table_scores` if not given.
    """
    sheets = [task.sheet(targets, task.normalised(table)) for table in tables]
    once = np.ones((1, len(targets)))
    scores, kept = {}, np.empty(0)
    drawn: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in names or task.table_scores}
    for block in resampled():
        for name, parts in drawn.items():
            parts.append(np.mean([task.scores[name](sheet, block) for sheet in sheets], axis=0))
    for name, parts in drawn.items():
        value = float(np.mean([task.scores[name](sheet, once)[0] for sheet in sheets]))
        draws = np.concatenate(parts)
        scores[name] = Estimate(value, *percentile_interval(draws, 0.95))
        if name == task.main_score:
            kept = draws
    return scores, kept


def _emap_loss(folds: Folds, row: Row, resampled: Resampled) -> Estimate:
    assert row.emap is not None
    task = folds.task
    main = task.scores[task.main_score]
    chosen = ~np.isnan(row.emap).any(axis=(0, 2))
    pairs = [(row.proba[s][chosen], row.emap[s][chosen]) for s in range(len(row.seeds))]
    sheets = [tuple(task.sheet(folds.targets[chosen], task.normalised(table)) for table in pair) for pair in pairs]

    def lost(block: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.mean([main(before, block) - main(after, block) for before, after in sheets], axis=0)
        return result

    value = float(lost(np.ones((1, int(chosen.sum()))))[0])
    drawn = [lost(block[:, chosen]) for block in resampled()]
    return Estimate(value, *percentile_interval(np.concatenate(drawn) if drawn else np.empty(0), 0.95))


def _test_all(results: Results, summaries: list[Summary], draws: dict[RowKey, np.ndarray]) -> None:
    tested = []
    for summary in summaries:
        anchor = anchor_of(summary.key, list(results.rows))
        if anchor is None or anchor == summary.key or anchor not in draws or summary.key not in draws:
            continue
        summary.test = _test(results, results.rows[anchor], results.rows[summary.key], draws)
        tested.append(summary)
    posts = holm([s.test.p for s in tested if s.test])
    folds = holm([s.test.fold_p for s in tested if s.test])
    for summary, p, fold_p in zip(tested, posts, folds, strict=True):
        assert summary.test is not None
        summary.test = Test(**{**summary.test.__dict__, "p_holm": float(p), "fold_p_holm": float(fold_p)})


def anchor_of(key: RowKey, keys: list[RowKey]) -> RowKey | None:
    """Return the row of joint fine-tuning that a row is tested against: the same encoders, or the first there is."""
    anchors = [other for other in keys if other.method == ANCHOR]
    for other in anchors:
        if key.text in ("", other.text) and key.image in ("", other.image):
            return other
    return anchors[0] if anchors else None


def _test(results: Results, anchor: Row, row: Row, draws: dict[RowKey, np.ndarray]) -> Test:
    folds = results.folds
    task, targets = folds.task, folds.targets
    gaps = anchor.fold_aucs(folds) - row.fold_aucs(folds)
    fold_p = corrected_t_test(gaps, results.test_over_train)
    found = paired_test(task, targets, (anchor.proba, draws[anchor.key]), (row.proba, draws[row.key]))
    return Test(found.difference, found.low, found.high, found.p, float(gaps.mean()), fold_p, found.name)


@dataclass(frozen=True)
class Paired:
    """By how much the main score of one model is above another's on the same posts: a minus b, interval, test."""

    difference: float
    low: float
    high: float
    p: float
    name: str


def paired_test(
    task: Task, targets: np.ndarray, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> Paired:
    """Compare the main score of two models on the same posts.

    DeLong's test for the AUC of two classes and one seed, else a paired bootstrap over posts.

    Parameters
    ----------
    task : Task
        What the targets mean.
    targets : ndarray
        Of the posts.
    a, b : (ndarray, ndarray)
        Predictions, shape (seeds, N, n_outputs), and the main score of the same resamples, as from :func:`scored`.
    """
    binary = task.target_type == "multiclass" and task.main_score == "auc" and len(task.outputs) == 2
    if binary and len(a[0]) == len(b[0]) == 1:
        found = delong_test(targets, task.of_classes(a[0][0]), task.of_classes(b[0][0]))
        return Paired(found.difference, found.low, found.high, found.p_value, "DeLong")
    once, main = np.ones((1, len(targets))), task.scores[task.main_score]
    value = [np.mean([main(task.sheet(targets, table), once)[0] for table in tables]) for tables, _ in (a, b)]
    gap = a[1] - b[1]
    gap = gap[~np.isnan(gap)]
    low, high = percentile_interval(gap, 0.95)
    return Paired(float(value[0] - value[1]), low, high, paired_p(gap), "paired bootstrap")


def corrected_t_test(differences: np.ndarray, test_over_train: float) -> float:
    """Return the two-sided p-value of the mean of paired differences over cross-validation folds.

    Folds share most of their training posts, so the plain t-test finds too much; the variance is widened by
    the ratio of test to training posts as in Nadeau & Bengio, "Inference for the Generalization Error",
    Machine Learning 52 (2003).
    """
    from scipy.stats import t

    n = len(differences)
    if n < 2 or np.isnan(differences).any():
        return math.nan
    variance = float(np.var(differences, ddof=1)) * (1 / n + test_over_train)
    if variance < 1e-18:
        return 1.0 if abs(float(differences.mean())) < 1e-12 else 0.0
    return float(2 * t.sf(abs(float(differences.mean())) / math.sqrt(variance), n - 1))
