"""What the report of a run or of an evaluation opens with: rules over its scores, its curves and its posts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cotune.errors import listed
from cotune.report.notices import Level, Notice, estimated, sorted_notices
from cotune.report.numbers import plural
from cotune.run import Run
from cotune.seen_check import TOO_HIGH
from cotune.tasks import Task

#: Fewer posts than this, or fewer of a class, make wide intervals.
FEW_POSTS, FEW_OF_CLASS = 200, 20
#: A confidence this far from the accuracy is worth a word, as long as chance does not explain it.
_GAP = 0.05
#: A validation score this much below its best is a fall.
_FALL = 0.005
_UNREADABLE = 0.05


def score_notices(task: Task, scores: Mapping[str, Any] | None, notes: Sequence[str] = ()) -> list[Notice]:
    """Return what to notice in the scores of some posts, the gravest first.

    Parameters
    ----------
    task : Task
        What was predicted.
    scores : mapping or None
        As :meth:`cotune.metrics.Evaluation.to_dict` gives them; None where nothing was measured.
    notes : sequence of str
        What else was noted of these posts.
    """
    found = [
        Notice("problem" if note.endswith(TOO_HIGH) else "warning", f"{note[:1].upper()}{note[1:]}.") for note in notes
    ]
    if scores is None:
        found.append(
            Notice(
                "warning",
                "No posts were held out, so nothing was measured. cotune evaluate does it, on labelled posts that the "
                "run has not seen.",
            )
        )
        return sorted_notices(found)
    for rule in (_one_class, _chance, _majority, _never_predicted, _confidence, _few):
        found += rule(task, scores)
    if any(note.endswith(TOO_HIGH) for note in notes):  # a good score of posts that were trained on is no good sign
        found = [notice for notice in found if notice.level != "good"]
    return sorted_notices(found)


def run_notices(run: Run) -> list[Notice]:
    """Return what to notice in a run: how its training ended, its curves, its posts, and their scores."""
    metrics = run.metrics
    found = []
    if metrics.get("status") == "interrupted":
        found.append(
            Notice("warning", "Interrupted. These are the weights of the last finished epoch; go on with --resume.")
        )
    if run.config.stop != "validation":  # which keeps the best epoch
        found += _overfitting(run.task, metrics.get("history", []))
    posts = metrics.get("posts", {})
    if posts.get("validation_overlap"):
        n = plural(posts["validation_overlap"], "validation post")
        found.append(Notice("problem", f"{n} {_be(posts['validation_overlap'])} among the training posts too, so that "
                                       "the scores are too good; leave them out of one of the tables."))  # fmt: skip
    broken, read = posts.get("unreadable_images", 0), posts.get("read", 0)
    if read and broken / read >= _UNREADABLE:
        found.append(Notice("warning", f"{broken / read:.0%} of the posts have an image that cannot be read; "
                                       "cotune check says which and why."))  # fmt: skip
    scores = metrics.get("validation")
    if scores is None and (scores := metrics.get("estimate")) is not None:
        found.append(Notice("warning", estimated(run.config.tune)))
    return sorted_notices(found + score_notices(run.task, scores, metrics.get("notes", [])))


def _be(n: int) -> str:
    return "is" if n == 1 else "are"


def _range(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _only_class(task: Task, scores: Mapping[str, Any]) -> str | None:
    """Return the class of all posts, if they have but one."""
    supported = [name for name, row in scores.get("per_class", {}).items() if row["support"]]
    return supported[0] if task.target_type == "multiclass" and len(supported) == 1 else None


def _one_class(task: Task, scores: Mapping[str, Any]) -> Iterator[Notice]:
    """Look whether there is nothing to tell apart."""
    if (name := _only_class(task, scores)) is not None:
        yield Notice("problem", f"All posts have the label {name}: there is no AUC, and accuracy is the share of posts "
                                f"predicted as {name}. Posts of other labels are needed.")  # fmt: skip


def _chance(task: Task, scores: Mapping[str, Any]) -> Iterator[Notice]:
    """Look whether the interval of the main score touches what a model that knows nothing has."""
    row = scores["scores"].get(task.main_score)
    if row is None or row["value"] is None or task.chance is None:
        return
    title, posts = f"{task.main_title} {row['value']:.3f}", plural(scores["n"], "post")
    if row["low"] is None or row["high"] is None:
        yield Notice("note", f"{title} on {posts}, without an interval.")
    elif row["low"] <= task.chance <= row["high"]:
        yield Notice("problem", f"{title} ({_range(row)}) on {posts}: the interval touches {task.chance:g}, which is "
                                "guessing. Nothing shows that the model has learned something.")  # fmt: skip
    elif row["high"] < task.chance:
        yield Notice("problem", f"{title} ({_range(row)}) on {posts}: worse than guessing ({task.chance:g}). "
                                "Are labels swapped?")  # fmt: skip
    else:
        level: Level = "good" if scores["n"] >= FEW_OF_CLASS else "note"
        yield Notice(level, f"{title} ({_range(row)}) on {posts}; guessing has {task.chance:g}.")


def _majority(task: Task, scores: Mapping[str, Any]) -> Iterator[Notice]:
    """Look whether always giving the most frequent class would be about as accurate."""
    row, classes = scores["scores"].get("accuracy"), scores.get("per_class")
    if task.target_type != "multiclass" or row is None or row["value"] is None or not classes:
        return
    if _only_class(task, scores) is not None:
        return
    name = max(classes, key=lambda one: classes[one]["support"])
    share = classes[name]["support"] / max(scores["n"], 1)
    if (row["low"] if row["low"] is not None else row["value"]) <= share:
        below = row["high"] is not None and row["high"] < share
        how = "is below" if below else "is not clearly better than"
        yield Notice("warning", f"Accuracy {row['value']:.3f} {how} that of always answering {name} ({share:.3f}): "
                                "look at AUC and the scores per class.")  # fmt: skip


def _never_predicted(task: Task, scores: Mapping[str, Any]) -> Iterator[Notice]:
    """Look for classes or labels that posts have and that no post was given."""
    if scores.get("confusion"):
        given = [sum(row[i] for row in scores["confusion"]) for i in range(len(scores["classes"]))]
        missed = [
            name for name, n in zip(scores["classes"], given, strict=True)
            if not n and scores["per_class"][name]["support"]
        ]  # fmt: skip
        what = "predicted"
    else:
        missed = [name for name, row in scores.get("per_label", {}).items() if row["support"] and row["recall"] == 0]
        what = "predicted rightly"
    if missed:
        yield Notice("warning", f"Never {what}: {listed(missed)}. More such posts are needed, or --class-weights "
                                "balanced.")  # fmt: skip


def _confidence(task: Task, scores: Mapping[str, Any]) -> Iterator[Notice]:
    """Look whether confidence and accuracy differ by more than chance explains."""
    bins = [one for one in scores.get("calibration", []) if one["n"]]
    n = sum(one["n"] for one in bins)
    if not n or task.target_type != "multiclass":
        return
    sure = sum(one["confidence"] * one["n"] for one in bins) / n
    right = sum(one["accuracy"] * one["n"] for one in bins) / n
    error = math.sqrt(max(right * (1 - right), 1 / n) / n)
    if abs(sure - right) < max(_GAP, 2 * error):
        return
    if sure > right:
        yield Notice("warning", f"Overconfident: mean confidence {sure:.0%}, but {right:.0%} are right. Don't read "
                                "its probabilities as frequencies.")  # fmt: skip
    else:
        yield Notice("note", f"Underconfident: mean confidence {sure:.0%}, while {right:.0%} are right.")


def _few(task: Task, scores: Mapping[str, Any]) -> Iterator[Notice]:
    """Look whether the posts are so few that the figures are rough."""
    del task
    if scores["n"] < FEW_POSTS:
        yield Notice("warning", f"Only {plural(scores['n'], 'post')}: the intervals are wide, and small differences "
                                "mean nothing.")  # fmt: skip
        return
    per = scores.get("per_class") or scores.get("per_label") or {}
    rare = [f"{name} ({row['support']})" for name, row in per.items() if row["support"] < FEW_OF_CLASS]
    if rare:
        yield Notice(
            "note", f"Few posts of {listed(rare, most=4)}: {'its' if len(rare) == 1 else 'their'} scores are rough."
        )


def _overfitting(task: Task, history: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    """Look whether, in the last stage, the training loss falls while the held-out posts are scored worse."""
    key = f"validation_{task.main_score}"
    rows = [row for row in history if row["stage"] == history[-1]["stage"] and row.get(key) is not None]
    if len(rows) < 2:
        return
    best, last = max(rows, key=lambda row: float(row[key])), rows[-1]
    if best[key] - last[key] < _FALL or not last["train_loss"] < best["train_loss"]:
        return
    yield Notice("warning", f"Overfitting: after epoch {best['epoch']} the training loss falls on "
                            f"({best['train_loss']:.3f} to {last['train_loss']:.3f}) while the validation "
                            f"{task.main_title} falls too ({best[key]:.3f} to {last[key]:.3f}). --stop validation "
                            "keeps the best epoch.")  # fmt: skip
