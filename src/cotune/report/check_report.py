"""The page of a check: what to fix first, then what was found in labels, duplicates, images and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cotune.data.checks.images import HUGE, STRETCHED, TINY
from cotune.data.checks.quality import QualityReport
from cotune.data.checks.texts import FEWEST_LETTERS, TextSummary
from cotune.fields import Field
from cotune.report.notices import Notice
from cotune.report.numbers import plural
from cotune.report.pages import bars, render
from cotune.report.post_cards import PostCards

_GROUPS, _OPEN, _MEMBERS, _LISTED, _ODD, _BARS, _NAMED, _ROWS = 60, 24, 4, 100, 36, 30, 10, 20


def check_report(
    report: QualityReport, posts: pd.DataFrame, fields: Sequence[Field], *, name: str, suspects: int | None = None
) -> str:
    """Return the page of a check.

    Parameters
    ----------
    report : QualityReport
        What was found.
    posts : DataFrame
        The posts it is about.
    fields : sequence of Field
        What they have.
    name : str
        What the table is called.
    suspects : int, optional
        Posts whose label is likely wrong, which ``review.html`` beside the page lists; None if that was not looked for.
    """
    groups = merged_groups(report)
    odd = sorted(report.odd_sizes, key=lambda size: (-len(size.kinds), size.row))[:_ODD]
    rows = [row for group in groups[:_GROUPS] for row in group["rows"][:_MEMBERS]]
    cards = PostCards(posts, fields).make([*rows, *(size.row for size in odd)])
    for group in groups[:_GROUPS]:
        group["cards"] = [cards[row] for row in group["rows"][:_MEMBERS]]
    kinds = list(report.fields.values())
    return render(
        "check.html",
        title=name,
        notices=_notices(report, suspects),
        suspects=suspects,
        facts=_facts(report),
        task=report.task,
        labels=_bars(report.labels),
        field_labels={name: _bars(votes) for name, votes in report.field_labels.items()},
        unlabelled=len(report.unlabelled),
        fields=_filled(report),
        groups=groups[:_GROUPS],
        open=_OPEN,
        group_count=len(groups),
        near=(report.near_posts, report.near_groups),
        troubles=report.image_troubles[:_LISTED],
        trouble_count=len(report.image_troubles),
        trouble_kinds=_bars({k: report.count(k) for k in dict.fromkeys(t.kind for t in report.image_troubles)}),
        mislabelled=report.mislabelled[:_LISTED],
        mislabelled_count=len(report.mislabelled),
        several_images=kinds.count("image") > 1,
        row_errors=report.row_errors[:_LISTED],
        row_error_count=len(report.row_errors),
        odd=[(size, [i for i in cards[size.row].images if i["name"] == size.field]) for size in odd],
        odd_counts={kind: sum(kind in size.kinds for size in report.odd_sizes) for kind in _ODD_KINDS},
        images=report.images,
        texts=[_text(summary) for summary in report.texts if summary.texts],
        tokens=report.tokens,
        long_texts=[(row, n) for row, n in sorted(report.long_texts, key=lambda item: -item[1])[:_ROWS]],
        long_count=len(report.long_texts),
        max_text_chars=report.max_text_chars,
        fewest_letters=FEWEST_LETTERS,
        incomplete=_incomplete(report),
        column=report.groups,
        limits=(TINY, HUGE // 1_000_000, STRETCHED),
    )


_ODD_KINDS = ("tiny", "huge", "extreme aspect ratio")


def merged_groups(report: QualityReport) -> list[dict[str, Any]]:
    """Return the groups of duplicates, each set of posts once, those with different labels first, then the largest.

    Parameters
    ----------
    report : QualityReport
        What was found.

    Returns
    -------
    list of dict
        ``by``, what the posts share; ``rows``; ``labels``; and ``contradicts``, whether those that are the same in all
        they have are labelled differently.
    """
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for group in [*report.contradictions, *report.duplicates]:
        mine = found.setdefault(tuple(group.rows), {"by": [], "rows": group.rows, "labels": group.labels})
        mine["by"].append(group.by)
    whole = {tuple(group.rows) for group in report.contradictions}
    for rows, merged in found.items():
        merged["contradicts"] = rows in whole
        if len(merged["by"]) > 1:  # what the groups of one kind say is more exact
            merged["by"] = [by for by in merged["by"] if " and " not in by]
    order = sorted(found.values(), key=lambda g: (not g["contradicts"], len(g["labels"]) < 2, -len(g["rows"])))
    return [{**group, "by": ", ".join(group["by"])} for group in order]


def _notices(report: QualityReport, suspects: int | None) -> list[Notice]:
    """Return the advice as notices; it is sorted already."""
    found = [Notice(advice.level, f"{advice.text[:1].upper()}{advice.text[1:]}.") for advice in report.advice]
    if suspects:
        line = f"{plural(suspects, 'label')} look{'s' if suspects == 1 else ''} wrong to a model: review the worst."
        found.insert(sum(notice.level == "problem" for notice in found), Notice("warning", line))
    return found or [Notice("good", "Nothing to fix was found.")]


def _facts(report: QualityReport) -> list[tuple[str, str, str]]:
    images, named = report.images, len(report.labels)
    facts = [("Posts", f"{report.posts:,}", f"{len(report.unlabelled):,} without a label" if report.unlabelled else "")]
    if report.labels and report.task != "regression":
        spread = "" if report.imbalance is None else f"most to fewest posts {report.imbalance:.1f} to 1"
        facts.append(("Labels", f"{named:,}", spread))
    if images["posts"]:
        facts.append(("Readable images", f"{images['sound']:,}", f"{images['different']:,} different ones"))
    if report.near_groups:
        facts.append(("Near-duplicates", f"{report.near_posts:,}", f"posts in {plural(report.near_groups, 'group')}"))
    if report.contradictions:
        facts.append(("Contradictions", f"{len(report.contradictions):,}", "groups of the same content"))
    return facts


def _bars(counts: Mapping[str, int], at_most: int = _BARS) -> list[dict[str, Any]]:
    """Return the bars of counts, the smallest of very many as one."""
    shown = list(counts.items())
    if len(shown) > at_most:
        ranked = sorted(shown, key=lambda item: -item[1])
        rest = ranked[at_most - 1 :]
        shown = [*ranked[: at_most - 1], (f"{len(rest):,} others", sum(n for _, n in rest))]
    return bars(dict(shown))


def _filled(report: QualityReport) -> list[dict[str, Any]]:
    """Return how many posts have each field, where that is not all of them."""
    if all(n == report.posts for n in report.filled.values()):
        return []
    return [{"name": name, "n": n, "part": n / max(1, report.posts), "share": n / max(1, report.posts)}
            for name, n in report.filled.items()]  # fmt: skip


def _text(summary: TextSummary) -> dict[str, Any]:
    most = max((n for _, n in summary.bins), default=0) or 1
    bins = [{"start": start, "n": n, "height": n / most} for start, n in summary.bins]
    return {
        "summary": summary,
        "bins": bins,
        "width": summary.bins[1][0] - summary.bins[0][0] if len(summary.bins) > 1 else 1,
        "scripts": _bars(summary.scripts, _NAMED),
        "languages": None if summary.languages is None else _bars(summary.languages, _NAMED),
    }


def _incomplete(report: QualityReport) -> list[tuple[str, int, str]]:
    """Return what posts lack, how many, and the first rows."""
    kinds = list(dict.fromkeys(report.fields.values()))
    every = f"neither {' nor '.join(kinds)}" if len(kinds) > 1 else "nothing"
    return [
        (title, len(rows), ", ".join(map(str, rows[:_ROWS])) + ("…" if len(rows) > _ROWS else ""))
        for title, rows in (("No text", report.without_text), ("No image", report.without_image),
                            (every.capitalize(), report.without_both), ("No label", report.unlabelled))
        if rows and (title != "No label" or report.labels)
    ]  # fmt: skip
