"""Whether two samples differ: tests by permutation of what the samples are told apart by.

A p-value is one plus the permutations that do at least as well, over one plus all of them: with posts sampled alike it
lies below alpha in at most that share of cases, whatever the sizes of the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from cotune.metrics.checks import Floats

_FOLDS = 10
#: Posts that each sample needs for a test.
FEWEST = 20


@dataclass(frozen=True)
class Difference:
    """How far two samples differ, and how likely that is among samples that do not; NaN where it cannot be told."""

    effect: float
    p_value: float


NOT_TOLD = Difference(math.nan, math.nan)


def classifier_test(
    first: Floats, second: Floats, *, n_permutations: int = 1000, seed: int = 0
) -> tuple[Difference, Floats]:
    """Tell two samples apart by a linear classifier that is cross-validated.

    Parameters
    ----------
    first, second : array, shapes (N, d) and (M, d)
        Embeddings.
    n_permutations : int
        Permutations of which post is of which sample.
    seed : int
        Seed of folds and permutations.

    Returns
    -------
    Difference
        The AUC of telling the second sample from the first, .5 for no difference.
    array
        How unlike the first sample each post of the second is: how many standard deviations of the first it lies from
        the mean of the first on the scale of the classifier, out of fold, shape (M,); NaN without a classifier.

    Notes
    -----
    A classifier two-sample test (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017) with the
    AUC as its statistic. The classifier is ridge regression on standardised embeddings, whose predictions out of fold
    follow from one hat matrix, for all permutations at once. Folds have the same part of either sample, and posts are
    permuted within folds, so that every permutation is as good as the one at hand where nothing differs.
    """
    n, m = len(first), len(second)
    if min(n, m) < FEWEST:
        return NOT_TOLD, np.full(m, np.nan)
    rng = np.random.default_rng(seed)
    both = np.concatenate([first, second]).astype(np.float64)
    both -= both.mean(axis=0)
    spread = both.std(axis=0)
    both = both[:, spread > 1e-6] / spread[spread > 1e-6]
    if not both.shape[1]:
        return NOT_TOLD, np.full(m, np.nan)
    gram = both @ both.T / both.shape[1]
    hat = np.linalg.solve(gram + _ridge(gram) * np.eye(n + m), gram) + 1 / (n + m)
    folds = np.concatenate([rng.permutation(np.arange(size) % _FOLDS) for size in (n, m)])
    sides = np.tile(np.repeat([-1.0, 1.0], [n, m]), (n_permutations + 1, 1))
    for fold in range(_FOLDS):
        at = np.flatnonzero(folds == fold)
        sides[1:, at] = rng.permuted(sides[1:, at], axis=1)
    sides = sides.T
    told = np.empty_like(sides)
    for fold in range(_FOLDS):
        at = np.flatnonzero(folds == fold)
        own = hat[np.ix_(at, at)]
        told[at] = np.linalg.solve(np.eye(len(at)) - own, hat[at] @ sides - own @ sides[at])
    ranks = rankdata(told, axis=0)
    aucs = ((ranks * (sides > 0)).sum(axis=0) - m * (m + 1) / 2) / (n * m)
    old, new = told[:n, 0], told[n:, 0]
    return Difference(float(aucs[0]), _p_value(aucs)), (new - old.mean()) / max(float(old.std()), 1e-12)


def _ridge(gram: Floats) -> float:
    """Return the penalty: as strong as the mean direction of the embeddings is varied."""
    return float(np.trace(gram)) / 20


def shares_test(first: Floats, second: Floats, *, n_permutations: int = 1000, seed: int = 0) -> Difference:
    """Tell whether labels are as frequent in one sample as in the other.

    Parameters
    ----------
    first, second : array of bool, shapes (N, K) and (M, K)
        Which labels each post has.
    n_permutations, seed
        As in :func:`classifier_test`.

    Returns
    -------
    Difference
        The largest difference between the shares of a label, and the p-value of the chi-square statistic.
    """
    n, m = len(first), len(second)
    if min(n, m) < FEWEST:
        return NOT_TOLD
    both = np.concatenate([first, second]).astype(np.float64)
    pooled = both.mean(axis=0)
    varied = pooled * (1 - pooled) > 0
    if not varied.any():
        return Difference(0.0, 1.0)
    rng = np.random.default_rng(seed)
    sides = np.tile(np.repeat([0.0, 1.0], [n, m]), (n_permutations + 1, 1))
    sides[1:] = rng.permuted(sides[1:], axis=1)
    of_second = sides @ both[:, varied]
    change = of_second / m - (both[:, varied].sum(axis=0) - of_second) / n
    chi_square = (change**2 / pooled[varied]).sum(axis=1)
    return Difference(float(np.abs(change[0]).max()), _p_value(chi_square))


def counts_test(first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """Tell whether something is as frequent among the posts of one sample as of the other, by Fisher's exact test.

    Parameters
    ----------
    first, second : (int, int)
        How many posts have it, of how many.
    """
    from scipy.stats import fisher_exact

    if not first[1] or not second[1]:
        return NOT_TOLD
    table = [[has, of - has] for has, of in (first, second)]
    effect = abs(first[0] / first[1] - second[0] / second[1])
    return Difference(effect, float(fisher_exact(table)[1]))


def numbers_test(first: Floats, second: Floats) -> Difference:
    """Tell whether numbers are distributed alike, by the test of Kolmogorov and Smirnov; its distance is the effect."""
    from scipy.stats import ks_2samp

    if min(len(first), len(second)) < FEWEST:
        return NOT_TOLD
    found = ks_2samp(first, second)
    return Difference(float(found.statistic), float(found.pvalue))


def _p_value(statistics: Floats) -> float:
    """Return how many of the permutations do at least as well as what was found, which comes first."""
    return float((statistics >= statistics[0] - 1e-12).mean())
