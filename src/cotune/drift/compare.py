"""New posts compared with the summary of those that a run was trained on: tests, a verdict, the posts least alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from cotune.data.tables.row_errors import has_row_error
from cotune.drift.summary import PostsSummary, as_arrays, as_labels, as_predicted, counted, measured
from cotune.errors import DataError
from cotune.metrics.comparison import holm
from cotune.metrics.two_samples import (
    FEWEST,
    Difference,
    classifier_test,
    counts_test,
    numbers_test,
    shares_test,
)
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.report.numbers import percent, plural
from cotune.tasks import Task

Verdict = Literal["none", "some", "clear", "unknown"]
#: What a p-value, corrected for the number of tests, has to lie below.
ALPHA = 0.05
#: From which AUC, and from which difference of shares or distributions, a shift is a clear one.
CLEAR_AUC, CLEAR_SHARE = 0.65, 0.15
IN_WORDS: dict[Verdict, str] = {
    "none": "No sign of a shift: these posts look like those that the run was trained on.",
    "some": "Some sign of a shift: these posts differ a little from those that the run was trained on.",
    "clear": "A clear shift: these posts are not like those that the run was trained on.",
    "unknown": "Unknown: there is not enough data to compare these posts with those that the run was trained on.",
}
_CHUNK = 256
_LISTED = 24
_FEW = 100
_LABELS_SHOWN = 6


@dataclass(frozen=True)
class ShiftTest:
    """One test.

    Attributes
    ----------
    what : str
        What was compared, such as ``embeddings of text``.
    measure : {"AUC", "share", "distance"}
        What `value` is: the AUC of telling new posts from training posts; the largest difference of a share; the
        distance of Kolmogorov and Smirnov.
    value, p_value, p_adjusted : float or None
        The last is corrected by Holm's method; None where nothing can be said, or the test does not count.
    counts : bool
        Whether it counts towards the verdict.
    detail : str
        The figures in words.
    """

    what: str
    measure: Literal["AUC", "share", "distance"]
    value: float | None
    p_value: float | None
    p_adjusted: float | None
    counts: bool
    detail: str

    @property
    def shifted(self) -> bool:
        """Whether it says that posts have shifted."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA

    @property
    def clear(self) -> bool:
        """Whether it says so clearly."""
        bound = CLEAR_AUC if self.measure == "AUC" else CLEAR_SHARE
        return self.shifted and self.value is not None and self.value >= bound


@dataclass(frozen=True)
class Drift:
    """What a comparison gives.

    Attributes
    ----------
    verdict : {"none", "some", "clear", "unknown"}
        "some" where a test that counts has a corrected p-value below `ALPHA`; "clear" where such a test's AUC is at
        least `CLEAR_AUC` or its difference at least `CLEAR_SHARE`; "unknown" where none does, and posts are too few
        for all tests but those of what they lack.
    posts, compared, reference : int
        Posts in the table, posts that were compared, and training posts that they were compared with.
    tests : list of ShiftTest
        The smallest corrected p-value first.
    unlike : list of dict
        The posts that look least like training posts: ``id``, ``row``, ``field`` and ``distance``, as
        :func:`~cotune.metrics.two_samples.classifier_test` tells it.
    notes : list of str
        What to know of it.
    """

    verdict: Verdict
    posts: int
    compared: int
    reference: int
    tests: list[ShiftTest]
    unlike: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        rules = {"alpha": ALPHA, "clear_auc": CLEAR_AUC, "clear_share": CLEAR_SHARE}
        tests = [{**asdict(test), "shifted": test.shifted} for test in self.tests]
        return {**asdict(self), "in_words": IN_WORDS[self.verdict], "rules": rules, "tests": tests}


def sample_posts(chunks: Iterable[pd.DataFrame], most: int, seed: int) -> tuple[pd.DataFrame, int]:
    """Return a random sample of posts that come in chunks, in their order, and how many there were.

    Raises
    ------
    DataError
        If there is none.
    """
    rng, kept, keys, seen = np.random.default_rng(seed), None, np.empty(0), 0
    for posts in chunks:
        seen += len(posts)
        kept = posts if kept is None else pd.concat([kept, posts], ignore_index=True)
        keys = np.concatenate([keys, rng.random(len(posts))])
        if len(kept) > most:
            at = np.sort(np.argpartition(keys, most)[:most])
            kept, keys = kept.iloc[at].reset_index(drop=True), keys[at]
    if kept is None:
        raise DataError("there are no posts to compare")
    return kept, seen


def summarise_new(predictor: Predictor, posts: pd.DataFrame, progress: Progress | None = None) -> PostsSummary:
    """Return the summary of posts that a run has not seen."""
    task, progress = predictor.task, progress or Progress()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in predictor.reads}
    predictions = np.full((len(posts), task.n_predictions), np.nan)
    faults = 0
    starts = range(0, len(posts), _CHUNK)
    for start in progress.track(starts, "posts (in chunks)", len(starts)):
        features, rows, _ = predictor.read(posts.iloc[start : start + _CHUNK])
        faults += len(features.faults)
        found = {
            name: np.full((len(features), size), np.nan, np.float16) for name, size in predictor.model.head.dims.items()
        }
        for batch, embeddings in predictor.embedded(features, rows):
            assert batch.rows is not None
            at = batch.rows.numpy()
            with torch.inference_mode():
                outputs = task.predictions(predictor.model.head(embeddings))
            predictions[start + at] = outputs.float().cpu().numpy()
            for name, part in as_arrays(embeddings).items():
                found[name][at] = part
        for name, part in found.items():
            parts[name].append(part)
    predictions = predictions[np.isfinite(predictions).all(axis=1)]
    labels = [label for label in posts["label"] if label is not None and task.problem(str(label)) is None]
    return PostsSummary(
        {name: np.concatenate(part).astype(np.float32) for name, part in parts.items()},
        as_labels(task, task.encode(labels)) if labels else None,
        as_predicted(task, predictions) if len(predictions) else None,
        measured(posts, predictor.fields),
        counted(posts, predictor.fields, faults, (int(has_row_error(posts).sum()), len(posts))),
        {"posts": len(posts), "sampled": len(posts)},
    )


def compare(
    known: PostsSummary,
    new: PostsSummary,
    posts: pd.DataFrame,
    task: Task,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
    of: int | None = None,
) -> Drift:
    """Compare new posts with those that a run was trained on.

    Parameters
    ----------
    known : PostsSummary
        Of the training posts.
    new : PostsSummary
        Of the new posts, as :func:`summarise_new` returns it.
    posts : DataFrame
        The new posts, in its order.
    task : Task
        What the run predicts.
    n_permutations : int
        Permutations of a test; there are more where its p-value, corrected for the number of tests, could otherwise
        not lie below `ALPHA`.
    seed : int
        Seed of these.
    of : int, optional
        Of how many posts the new ones are a sample.
    """
    unseen, trained = bool(known.about["unseen"]), bool(known.about["encoders_trained"])
    how: dict[str, Any] = {"n_permutations": max(n_permutations, _enough(known)), "seed": seed}
    tests, told_by = _of_embeddings(known, new, counts=unseen or not trained, **how)
    tests += _of_labels(known, new, task, counts=unseen, **how)
    for name in (name for name in known.measures if name in new.measures):
        told = numbers_test(known.measures[name], new.measures[name])
        detail = "" if math.isnan(told.effect) else "median " + " → ".join(
            f"{np.median(one.measures[name]):,.0f}" for one in (known, new))  # fmt: skip
        tests.append(_test(name, "distance", told, True, detail))
    for name, (has, total) in known.counts.items():
        there = new.counts.get(name, (0, 0))
        if has or there[0]:
            told = counts_test((has, total), there)
            tests.append(_test(name, "share", told, True, _change(has, total, *there)))
    tests = _corrected(tests)
    counted_tests = [test for test in tests if test.p_adjusted is not None]
    verdict: Verdict = "unknown" if not counted_tests else "none"
    if any(test.shifted for test in counted_tests):
        verdict = "clear" if any(test.clear for test in counted_tests) else "some"
    elif len(posts) < FEWEST:  # all that was tested is what they lack
        verdict = "unknown"
    reference = int(known.about["sampled"])
    notes = _notes(known, len(posts), of)
    return Drift(verdict, of or len(posts), len(posts), reference, tests, _unlike(told_by, posts), notes)


def _enough(known: PostsSummary) -> int:
    """Return with how many permutations the smallest p-value may count, even if it is corrected for all tests."""
    labels_and_all_fields = 3
    tests = len(known.embeddings) + labels_and_all_fields + len(known.measures) + len(known.counts)
    return math.ceil(2 * tests / ALPHA)


def _test(what: str, measure: Any, told: Difference, counts: bool, detail: str) -> ShiftTest:
    value, p = (None if math.isnan(number) else number for number in (told.effect, told.p_value))
    return ShiftTest(what, measure, value, p, None, counts, detail if value is not None else "too few posts to tell")


def _corrected(tests: list[ShiftTest]) -> list[ShiftTest]:
    """Return the tests with p-values corrected for the number of those that count, the smallest first."""
    p = [test.p_value if test.counts and test.p_value is not None else math.nan for test in tests]
    found = [
        replace(test, p_adjusted=None if math.isnan(adjusted) else float(adjusted))
        for test, adjusted in zip(tests, holm(p), strict=True)
    ]
    return sorted(found, key=lambda test: (test.p_adjusted is None, test.p_adjusted, -(test.value or 0)))


def _of_embeddings(
    known: PostsSummary, new: PostsSummary, *, counts: bool, **how: Any
) -> tuple[list[ShiftTest], dict[str, np.ndarray]]:
    """Return the tests, and by field how unlike training posts each post is."""
    tests, told_by, wholes = [], {}, []
    for name, old in known.embeddings.items():
        now = new.embeddings[name]
        there = _has(now)
        told, distances = classifier_test(old[_has(old)], now[there], **how)
        told_by[name] = np.full(len(now), np.nan)
        told_by[name][there] = distances
        tests.append(_test(f"embeddings of {name}", "AUC", told, counts, _auc_in_words(told)))
        both = np.concatenate([old, now])
        if not np.isnan(told.p_value):  # a field that one side does not have would only blur the others
            mean = np.nanmean(both, axis=0)
            wholes.append([np.where(np.isnan(part), mean, part) for part in (old, now)])
    if len(wholes) > 1:
        told, _ = classifier_test(*(np.concatenate(side, axis=1) for side in zip(*wholes, strict=True)), **how)
        tests.append(_test("embeddings of all fields", "AUC", told, counts, _auc_in_words(told)))
    return tests, told_by


def _auc_in_words(told: Difference) -> str:
    return "" if math.isnan(told.effect) else f"told from training posts with AUC {told.effect:.3f}; 0.5 is chance"


def _of_labels(known: PostsSummary, new: PostsSummary, task: Task, *, counts: bool, **how: Any) -> list[ShiftTest]:
    tests = []
    for what, old, now, valid in (
        ("predicted labels", known.predicted, new.predicted, counts), ("labels", known.labels, new.labels, True),
    ):  # fmt: skip
        if old is None or now is None:
            continue
        if task.target_type == "continuous":
            told = numbers_test(old, now)
            detail = f"median {np.median(old):.4g} → {np.median(now):.4g}" if len(old) else ""
            what = {"predicted labels": "predicted values", "labels": "values"}[what]
            tests.append(_test(what, "distance", told, valid, detail))
            continue
        told = shares_test(old, now, **how)
        before, after = (part.mean(axis=0) if len(part) else np.zeros(len(task.outputs)) for part in (old, now))
        largest = np.argsort(-np.abs(after - before))[:_LABELS_SHOWN]
        detail = ", ".join(f"{task.outputs[i]} {percent(before[i])} → {percent(after[i])}" for i in sorted(largest))
        tests.append(_test(what, "share", told, valid, detail))
    return tests


def _change(has: int, total: int, has_now: int, total_now: int) -> str:
    return f"{has:,} of {total:,} → {has_now:,} of {total_now:,}"


def _has(embeddings: np.ndarray) -> np.ndarray:
    """Return which posts have a field."""
    there: np.ndarray = ~np.isnan(embeddings[:, 0])
    return there


def _unlike(told: Mapping[str, np.ndarray], posts: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the posts that are least like training posts in a field."""
    if not told:
        return []
    distances = np.stack([np.nan_to_num(each, nan=-np.inf) for each in told.values()])
    names, best = list(told), distances.max(axis=0)
    ids, rows = posts["id"].tolist(), posts["row"].tolist()
    return [
        {"id": str(ids[i]), "row": int(rows[i]), "field": names[distances[:, i].argmax()], "distance": float(best[i])}
        for i in np.argsort(-best, kind="stable")[:_LISTED]
        if np.isfinite(best[i])
    ]


def _notes(known: PostsSummary, compared: int, of: int | None) -> list[str]:
    notes = []
    if of is not None and of > compared:
        notes.append(f"a random sample of {compared:,} of {plural(of, 'post')} was compared; --sample takes more")
    if compared < _FEW:
        notes.append(f"with {plural(compared, 'post')} a large shift alone can be seen")
    if not known.about["unseen"]:
        trained = known.about["encoders_trained"]
        what = "embeddings and predicted labels do" if trained else "predicted labels do"
        notes.append(
            f"the run was compared on posts that it was trained on, where a model behaves otherwise than on new ones: "
            f"{what} not count towards the verdict; a run that holds posts out (fit --validation 0.1, at least 100 "
            "posts) is compared on those, and all of its tests count"
        )
    return notes
