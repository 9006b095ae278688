"""What a reader of a table's explanations should notice: rules, each in a function of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cotune.report.notices import Notice, sorted_notices
from cotune.report.numbers import percent, plural

#: A field with a larger mean share drives nearly everything.
NEARLY_ALL = 0.8
#: Fewer scored posts than this give shares that another sample may well change.
FEW = 100
#: A larger part of posts without a prediction may bend all that is said of the rest.
MANY_MISSING = 0.05
_SAME, _LOSS = 0.98, 0.01


def explain_notices(summary: Mapping[str, Any]) -> list[Notice]:
    """Return what a reader should notice first, the gravest first.

    Parameters
    ----------
    summary : mapping
        Of the table, as :class:`cotune.explain.table.explain_posts.ExplainedPosts` has it.
    """
    found = [*_seen(summary), *_zeros(summary), *_missing(summary), *_few(summary)]
    if summary["with_both"]:
        found += [*_shares(summary), *_interaction(summary)]
    return sorted_notices(found)


def _seen(summary: Mapping[str, Any]) -> Iterator[Notice]:
    for note in summary["notes"]:
        yield Notice("warning", f"{note[:1].upper()}{note[1:]}.")


def _zeros(summary: Mapping[str, Any]) -> Iterator[Notice]:
    for name, by in summary["removed"].items():
        if by == "zeros":
            yield Notice(
                "warning",
                f"This run was trained without posts that lack the {name}: an embedding of zeros stands in for it, "
                "which the fusion head has never seen. Read the shares with care.",
            )


def _missing(summary: Mapping[str, Any]) -> Iterator[Notice]:
    posts, errors = summary["posts"], summary["errors"]
    if errors == posts:
        yield Notice("problem", "No post has a prediction; modality.csv has the reason for each.")
    elif errors >= MANY_MISSING * posts:
        yield Notice(
            "warning",
            f"{errors:,} of {plural(posts, 'post')} ({percent(errors / posts)}) have no prediction, and nothing below "
            "is about them; modality.csv has the reason for each.",
        )


def _few(summary: Mapping[str, Any]) -> Iterator[Notice]:
    if 0 < summary["scored"] < FEW:
        yield Notice("warning", f"Only {plural(summary['scored'], 'post')}: other posts may give other shares.")


def _shares(summary: Mapping[str, Any]) -> Iterator[Notice]:
    fields: Sequence[str] = summary["fields"]
    means = {name: summary[f"{name}_share"]["mean"] for name in fields}
    first = max(fields, key=lambda name: means[name] or 0.0)
    others = [name for name in fields if name != first]
    parts = summary["of_posts_with_both"]
    flips = parts.get(f"flips_without_{others[0]}") if len(others) == 1 else None
    apart = f"{'the two' if len(fields) == 2 else 'fields'} disagree in {percent(parts['pull_apart'])} of the posts"
    if means[first] >= NEARLY_ALL:
        less = "" if flips is None else f"; without the {others[0]} the label flips in {percent(flips)} of the posts"
        yield Notice("note", f"The {first} drives nearly everything: its mean share is {percent(means[first])}{less}.")
    else:
        listed = ", ".join(f"the {name} {percent(means[name])}" for name in sorted(fields, key=lambda n: -means[n]))
        which = "Both fields count" if len(fields) == 2 else "More than one field counts"
        yield Notice("note", f"{which} (mean shares: {listed}), and {apart}.")


def _interaction(summary: Mapping[str, Any]) -> Iterator[Notice]:
    emap = summary.get("emap")
    if not emap:
        return
    one, other, *_ = summary["fields"]
    before, after = emap["accuracy"], emap["additive_accuracy"]
    lost = None if before is None or after is None else before - after
    if lost is not None and lost >= _LOSS:
        yield Notice(
            "note",
            f"Interaction of {one} and {other} counts: without it the accuracy on {plural(emap['labelled'], 'post')} "
            f"falls from {percent(before, 1)} to {percent(after, 1)} (EMAP).",
        )
    elif emap["same_label"] >= _SAME:
        yield Notice(
            "note",
            f"Interaction of {one} and {other} adds nothing measurable: adding up a part of each gives the same label "
            f"in {percent(emap['same_label'], 1)} of {plural(emap['posts'], 'post')} (EMAP).",
        )
