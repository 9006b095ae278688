"""How well a model says what annotators said of single fields, and that fields contradict each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cotune.data.tables.cells import field_labels
from cotune.metrics import evaluate
from cotune.tasks.label_rule import votes_of

if TYPE_CHECKING:
    from cotune.tasks.annotated import Annotated

#: Posts at the head of the list of likely contradictions of which a precision is given.
FIRST = 50
CONTRADICTION = "contradiction"


def field_scores(
    task: Annotated, posts: pd.DataFrame, predictions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return how well each field's label is told, and contradictions, on posts whose fields have labels.

    Parameters
    ----------
    task : Annotated
        What the predictions mean.
    posts : DataFrame
        With columns of labels of fields; the most common label of a post counts, a post without one does not.
    predictions : ndarray
        Shape (N, n_predictions); NaN where there is no prediction.
    n_bootstrap, seed
        Of the intervals.

    Returns
    -------
    dict
        By field, and under ``contradiction``: ``n``, and AUC and, for fields, accuracy with their intervals. Of
        contradictions also how many there are, and the precision among the first 50.
    """
    columns, known = field_labels(posts), ~np.isnan(predictions[:, 0])
    told = {
        field: [_most_common(cell) for cell in posts[columns[field]]] if field in columns else [None] * len(posts)
        for field in task.field_labels
    }
    how = {"n_bootstrap": n_bootstrap, "seed": seed}
    found: dict[str, dict[str, Any]] = {}
    for field, part in task.parts(predictions).items():
        labels = task.field_labels[field]
        index = {label: i for i, label in enumerate(labels)}
        at = [i for i, label in enumerate(told[field]) if label in index and known[i]]
        targets = np.asarray([index[str(told[field][i])] for i in at])
        if len(set(targets.tolist())) > 1:
            scores = evaluate(targets, part[at], labels, **how).to_dict()["scores"]
            found[field] = {"n": len(at), "auc": scores["auc"], "accuracy": scores["accuracy"]}
    conflict = task.conflict(predictions)
    rule = task.label_rule
    whole = [i for i in range(len(posts)) if known[i] and all(votes[i] is not None for votes in told.values())]
    if conflict is None or rule is None or not whole:
        return found
    combinations = [tuple(str(told[field][i]) for field in rule.fields) for i in whole]
    usable = [i for i, combination in zip(whole, combinations, strict=True) if combination in rule.labels]
    against = np.asarray([rule.labels[c] is None for c in combinations if c in rule.labels], dtype=np.int64)
    if len(set(against.tolist())) > 1:
        chance = conflict[usable]
        scores = evaluate(against, np.column_stack([1 - chance, chance]), ("no", "yes"), **how).to_dict()["scores"]
        first = np.argsort(-chance, kind="stable")[:FIRST]
        found[CONTRADICTION] = {
            "n": len(usable), "auc": scores["auc"], "contradictions": int(against.sum()),
            "precision_first": float(against[first].mean()), "first": len(first),
        }  # fmt: skip
    return found


def _most_common(cell: str | None) -> str | None:
    ranked = Counter(votes_of(cell)).most_common()
    tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return None if not ranked or tied else ranked[0][0]
