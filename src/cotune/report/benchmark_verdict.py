"""What a benchmark says, in one sentence, and what a reader should notice: rules, each in a function of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from cotune.benchmark.compare import Summary, Test
from cotune.benchmark.plan import ANCHOR
from cotune.benchmark.results import Results
from cotune.benchmark.tables import p_words, repeated
from cotune.report.notices import Notice, sorted_notices
from cotune.report.numbers import p_value, plural

SURE = 0.05
#: An interval of the AUC that is wider than this can hold most differences between methods.
WIDE = 0.1
_NAMED = 3
_PHRASES = {
    "svm": "an SVM on frozen embeddings",
    "image": "the image encoder alone",
    "text": "the text encoder alone",
    "table": "the table columns alone",
    "concat": "plain concatenation",
    "clip": "a dual encoder (CLIP)",
    "probe": "the fusion head on frozen encoders",
    "reference": "the paper's released head",
    "joint": "joint fine-tuning",
    "ensemble": "the mean of a text and an image model",
}


def phrase(summary: Summary, others: Sequence[Summary]) -> str:
    """Return what a row is called within a sentence."""
    name = _PHRASES.get(summary.key.method, f"“{summary.key.title}”")
    return f"{name} ({summary.key.encoders})" if repeated(summary, others) else name


def by_score(summaries: Sequence[Summary]) -> list[Summary]:
    """Return rows from the highest mean down; those without a score come last."""
    return sorted(summaries, key=lambda s: -math.inf if math.isnan(s.auc_mean) else s.auc_mean, reverse=True)


def reference_of(summaries: Sequence[Summary]) -> Summary | None:
    """Return the row that the others are compared with, if there is exactly one."""
    found = [s for s in summaries if s.key.method == ANCHOR]
    return found[0] if len(found) == 1 else None


def strict_p(test: Test) -> float:
    """Return the p-value that a claim about methods must pass: over folds, with Holm's correction, else over posts."""
    return test.p_holm if math.isnan(test.fold_p_holm) else test.fold_p_holm


def outcome(test: Test) -> Literal["better", "worse", "level"]:
    """Return how the reference compares with a row: better, worse, or not clearly different."""
    if not strict_p(test) < SURE:
        return "level"
    return "better" if test.difference > 0 else "worse"


def answer(results: Results, summaries: Sequence[Summary], grids: Sequence[str] = ()) -> str:
    """Return the benchmark's answer to its question as one sentence."""
    main = results.folds.task.main_title
    if grids:
        return _of_grid([s for s in summaries if s.key.method in grids], main)
    reference, ranked = reference_of(summaries), by_score(summaries)
    tested = [s for s in ranked if s.test is not None]
    if not ranked or math.isnan(ranked[0].auc_mean):
        return "No method has a score over all posts yet."
    if reference is None or not tested:
        why = "Joint fine-tuning was not measured" if reference is None else "Nothing was compared on all posts yet"
        return f"{why}; the highest mean {main}, {ranked[0].auc_mean:.4f}, is that of {phrase(ranked[0], summaries)}."
    parts: list[str] = []
    for kind, words in (("better", "is better than"), ("worse", "is worse than")):
        rows = [s for s in tested if s.test is not None and outcome(s.test) == kind]
        if rows:
            parts.append(f"{words} {_by_how_much(rows, len(tested), summaries, main if not parts else '')}")
    level = [s for s in tested if s.test is not None and outcome(s.test) == "level"]
    if level:
        named = [f"{phrase(s, summaries)} ({_p(s.test)})" for s in level[:_NAMED] if s.test is not None]
        more = [f"{len(level) - _NAMED} more"] if len(level) > _NAMED else []
        parts.append(f"does not differ clearly from {_listed([*named, *more])}")
    return f"Joint fine-tuning {_listed(parts, joint=', and ' if len(parts) > 1 else '')}."


def _by_how_much(rows: Sequence[Summary], of: int, summaries: Sequence[Summary], unit: str) -> str:
    """Name rows with their differences, or where there are many, the nearest and the farthest one."""
    unit = f" {unit}" if unit else ""
    if len(rows) <= _NAMED:
        return _listed(
            [f"{phrase(s, summaries)} by {abs(s.test.difference):.3f}{unit} ({_p(s.test)})" for s in rows if s.test]
        )
    ranked = sorted((s for s in rows if s.test), key=lambda s: abs(s.test.difference) if s.test else 0.0)
    ends = [f"{abs(s.test.difference):.3f} ({phrase(s, summaries)})" for s in (ranked[0], ranked[-1]) if s.test]
    highest = max(strict_p(s.test) for s in rows if s.test)
    bound = "p < .001" if highest < 0.001 else f"p of at most {p_value(highest)}"
    which = f"all {of} other methods" if len(rows) == of else f"{len(rows)} of {of} other methods"
    return f"{which}, by {' to '.join(ends)}{unit}, each with {bound}"


def _of_grid(rows: Sequence[Summary], main: str) -> str:
    ranked = [s for s in by_score(rows) if not math.isnan(s.auc_mean)]
    if not ranked:
        return "No pair of encoders has a score yet."
    best = ranked[0]
    pairs = plural(len(ranked), "pair")
    head = f"Of {pairs} of encoders, {best.key.encoders} has the highest {main} ({best.auc_mean:.4f})"
    interval = next(iter(best.scores.values()), None)
    if interval is None or len(ranked) < 2:
        return f"{head}."
    near = sum(s.auc_mean >= interval.low for s in ranked[1:])
    if not near:
        return f"{head}; no other reaches its 95 % interval."
    verb = "lies" if near == 1 else "lie"
    return f"{head}, but {near} of the others {verb} within its 95 % interval, so that their order is uncertain."


def benchmark_notices(results: Results, summaries: Sequence[Summary], grids: Sequence[str] = ()) -> list[Notice]:
    """Return what a reader should notice beside the answer, the gravest first."""
    found = [*_failed(results), *_unfinished(summaries), *_uncertain(results, summaries)]
    if not grids:
        found += [*_best_is_another(results, summaries), *_tests_disagree(summaries)]
    return sorted_notices(found)


def _failed(results: Results) -> Iterator[Notice]:
    n = len(results.failures)
    if n:
        yield Notice(
            "problem",
            f"{plural(n, 'cell')} failed: the figures below lack {'it' if n == 1 else 'them'}. The reasons are at the "
            "end of the page; --resume tries again.",
        )


def _unfinished(summaries: Sequence[Summary]) -> Iterator[Notice]:
    short = [s for s in summaries if s.folds_done < s.folds]
    if short:
        fewest = min(s.folds_done for s in short)
        yield Notice(
            "warning",
            f"{len(short)} of {plural(len(summaries), 'row')} lack folds (down to {fewest} of {short[0].folds}): their "
            "means are over other posts and cannot be compared with those of the other rows.",
        )


def _uncertain(results: Results, summaries: Sequence[Summary]) -> Iterator[Notice]:
    task = results.folds.task
    row = reference_of(summaries) or next(iter(by_score(summaries)), None)
    interval = row.scores.get(task.main_score) if row is not None else None
    if interval is None or row is None or task.main_score != "auc":
        return
    name = phrase(row, summaries)
    if interval.low <= 0.5:
        yield Notice(
            "warning",
            f"The AUC of {name} may be chance: its 95 % interval, {interval.low:.3f} to {interval.high:.3f}, reaches "
            "0.5.",
        )
    if interval.high - interval.low > WIDE:
        yield Notice(
            "warning",
            f"Few posts: {len(results.folds.ids):,} leave an interval of {interval.high - interval.low:.2f} around the "
            f"AUC of {name}, wider than most differences between methods.",
        )


def _best_is_another(results: Results, summaries: Sequence[Summary]) -> Iterator[Notice]:
    """Compare the reference with the best of the others: which leads, and whether that can be told."""
    reference, main = reference_of(summaries), results.folds.task.main_title
    others = [s for s in by_score(summaries) if s is not reference and s.test is not None]
    if reference is None or not others:
        return
    best = others[0]
    assert best.test is not None
    level = outcome(best.test) == "level"
    told = f"the two do not differ clearly ({_p(best.test)})" if level else f"the difference is clear ({_p(best.test)})"
    name = phrase(best, summaries)
    if best.auc_mean > reference.auc_mean:
        yield Notice(
            "note" if level else "warning",
            f"The highest mean {main} is not that of joint fine-tuning ({reference.auc_mean:.4f}) but of {name} "
            f"({best.auc_mean:.4f}); {told}.",
        )
    elif level:
        yield Notice("note", f"Joint fine-tuning leads, followed by {name}, but {told}.")


def _tests_disagree(summaries: Sequence[Summary]) -> Iterator[Notice]:
    """Name rows that differ on these posts, while a new training may well turn out otherwise."""
    rows = [s for s in summaries if s.test is not None and s.test.p_holm < SURE and outcome(s.test) == "level"]
    if rows:
        named = _listed([f"{phrase(s, summaries)} ({p_words(s.test.p_holm)})" for s in rows[:_NAMED] if s.test])
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        yield Notice(
            "note",
            f"As trained here, joint fine-tuning differs from {named}{more} on these posts; over folds, which stands "
            "for training again, the difference is not certain.",
        )


def _p(test: Test | None) -> str:
    return "" if test is None else p_words(strict_p(test))


def _listed(parts: Sequence[str], joint: str = "") -> str:
    """Return the parts in a row, the last after "and"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])}{joint or ' and '}{parts[-1]}"
