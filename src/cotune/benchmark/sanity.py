"""A check of methods on shuffled labels: whoever ranks posts above chance then has seen the labels they are scored by.

The labels are shuffled once among the posts, before folds are cut, so that nothing in a post tells its label any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from cotune.benchmark.compare import Summary
from cotune.benchmark.folds import Folds
from cotune.benchmark.results import Results, RowKey
from cotune.benchmark.tables import Table, interval_cell
from cotune.data.tables.cells import field_labels
from cotune.metrics import Estimate, holm
from cotune.report.numbers import p_value, plural

#: A method leaks if its p-value, after Holm's correction for all methods, is below this.
LEAK = 0.01
_PERMUTATIONS = 200


def shuffled(posts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the posts with their labels, and those of their fields along with them, shuffled among labelled posts."""
    columns = ["label", *field_labels(posts).values()]
    rows = np.flatnonzero(posts[columns].notna().any(axis=1).to_numpy())
    drawn = np.random.default_rng([seed, 0x5A]).permutation(rows)
    found = posts.copy()
    for column in columns:
        cells = posts[column].to_numpy(dtype=object, copy=True)
        cells[rows] = cells[drawn]
        found[column] = pd.Series(cells, index=posts.index, dtype=object)
    return found


@dataclass(frozen=True)
class Checked:
    """How a method fares on shuffled labels.

    Attributes
    ----------
    key : RowKey
        The method and its encoders.
    score : Estimate
        The main score over all posts, with its 95 % interval.
    chance : float
        What its predictions score on average when the labels are shuffled again within each fold.
    p : float
        How likely a score as high as this is by chance (one-sided, normal approximation of those shufflings), with
        Holm's correction for all methods.
    """

    key: RowKey
    score: Estimate
    chance: float
    p: float

    @property
    def leaks(self) -> bool:
        """Whether the method must have seen labels of posts that it was scored on."""
        return self.p < LEAK

    def to_dict(self) -> dict[str, Any]:
        """Return all by name."""
        about = {"chance": self.chance, "p_holm": self.p, "leaks": self.leaks}
        return {**asdict(self.key), "score": self.score.to_dict(), **about}


def check_sanity(results: Results, summaries: Sequence[Summary]) -> list[Checked] | None:
    """Return how each method that has scored all posts fares; None if the labels were not shuffled."""
    if not results.settings.get("sanity"):
        return None
    folds, main = results.folds, results.folds.task.main_score
    known = [s for s in summaries if main in s.scores]
    nulls = [_null(folds, results.rows[s.key].proba.mean(axis=0), int(results.settings["fold_seed"])) for s in known]
    p = [float(norm.sf((s.scores[main].value - mean) / sd)) for s, (mean, sd) in zip(known, nulls, strict=True)]
    corrected = holm(np.asarray(p)) if p else np.zeros(0)
    return [
        Checked(s.key, s.scores[main], mean, float(at))
        for s, (mean, _), at in zip(known, nulls, corrected, strict=True)
    ]


def _null(folds: Folds, predictions: np.ndarray, seed: int) -> tuple[float, float]:
    """Return mean and standard deviation of the main score of predictions under labels shuffled within each fold.

    Within a fold, as the model that scored it knows the labels of the others, and thereby how many of each are left.
    """
    task, random = folds.task, np.random.default_rng([seed, 0xA5])
    scored = task.scored(folds.targets)
    parts = [np.flatnonzero(scored & (folds.fold == fold)) for fold in range(folds.n_folds)]
    order, found = np.concatenate(parts), []
    for _ in range(_PERMUTATIONS):
        mixed = np.concatenate([random.permutation(part) for part in parts])
        score = task.watch(folds.targets[mixed], predictions[order]).score
        found.append(math.nan if score is None else score)
    return float(np.nanmean(found)), max(float(np.nanstd(found, ddof=1)), 1e-9)


def table_sanity(results: Results, checked: Sequence[Checked]) -> Table:
    """Return the table that says of every method whether it leaks."""
    main, chance = results.folds.task.main_title, results.folds.task.chance
    within = f"{chance:g} within" if chance is not None else "chance within"
    rows = []
    for each in checked:
        inside = each.score.low <= (each.chance if chance is None else chance) <= each.score.high
        verdict = "LEAKS" if each.leaks else "no leak found"
        cells = [interval_cell(each.score), "yes" if inside else "no", f"{each.chance:.4f}", p_value(each.p), verdict]
        several = sum(other.key.method == each.key.method for other in checked) > 1
        rows.append([f"{each.key.title} ({each.key.encoders})" if several else each.key.title, *cells])
    notes = [
        f"Labels shuffled once among {plural(len(results.folds.ids), 'post')} (seed {results.settings['fold_seed']}): "
        "no method can do better than chance, unless it saw labels of posts it is scored on.",
        "Chance: the mean over labels shuffled again within each fold. p: one-sided against it, with Holm's correction "
        f"for {plural(len(checked), 'method')}; below {LEAK:g} the method leaks. Of 20 intervals one misses chance by "
        "chance.",
    ]
    head = ["method", f"{main}, all posts [95 %]", within, "chance", "p (Holm)", "verdict"]
    return Table("sanity", f"Sanity: {main} on shuffled labels", head, rows, notes)


def verdict(results: Results, checked: Sequence[Checked]) -> str:
    """Return in a sentence whether any method leaks."""
    main, leaking = results.folds.task.main_title, [each for each in checked if each.leaks]
    if leaking:
        named = ", ".join(f"{each.key.title} ({main} {each.score.value:.3f})" for each in leaking)
        return f"On shuffled labels {named} is above chance: it saw labels of posts it is scored on."
    if not checked:
        return "The labels are shuffled; no method has scored all posts yet."
    return f"The labels are shuffled, and none of {plural(len(checked), 'method')} ranks posts above chance."
