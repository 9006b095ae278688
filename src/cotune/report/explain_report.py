"""Pages about explained posts: one for each post and one for the whole table, each a file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from cotune.explain.explanation import Explanation, verdict
from cotune.explain.table.explain_posts import ExplainedPosts
from cotune.report.explain_verdict import explain_notices
from cotune.report.explanation import STYLE, fragment
from cotune.report.pages import render, style_sheet
from cotune.report.thumbnails import BUDGET

#: Classes shown in full; the rest are in the summary's JSON.
CLASSES = 20


def _about_list(name: str, fields: Sequence[str], *, contradicts: bool) -> tuple[str, str]:
    """Return title and note of a list of posts."""
    pair = len(fields) == 2
    if name == "conflicts" and contradicts:
        return "Most likely contradictions", (
            "Ranked by the probability that the fields contradict each other, which the run learned from their labels."
        )
    if name == "conflicts":
        who = f"{fields[0].capitalize()} and {fields[1]}" if pair else "Fields"
        smaller = "the smaller of the two, so that both have" if pair else "the smaller side, so that both sides have"
        return f"{who} disagree most", f"Opposite contributions to the predicted class, ranked by {smaller} to pull."
    if name == "mistakes":
        return "Most confident errors", "Posts whose label is another than the predicted one, the worst first."
    field = name.removesuffix("_driven")
    both = "both" if pair else "several fields"
    return f"Most {field}-driven", f"Of the posts that have {both}, those with the largest share of the {field}."


def page_name(row: int) -> str:
    """Return the file name of a post's page; it holds nothing that a post says."""
    return f"post-{row:06}.html"


def post_page(found: Explanation, *, row: int, run: str, index: str | None = None) -> str:
    """Return the page of one post.

    Parameters
    ----------
    found : Explanation
        What to show.
    row : int
        The post's row in its table.
    run : str
        What to call the run.
    index : str, optional
        Address of the page of the whole table.
    """
    images = {name: part.image for name, part in found.images.items()}
    return render(
        "explain_post.html", title=f"Post {found.id}", row=row, run=run, index=index,
        explanation=fragment(found.to_dict(), images), css=style_sheet(STYLE),
    )  # fmt: skip


def set_page(found: ExplainedPosts, *, run: str, posts: str, folder: str = "posts") -> str:
    """Return the page of a whole table.

    Parameters
    ----------
    found : ExplainedPosts
        What to show.
    run, posts : str
        What to call run and table.
    folder : str
        Where the pages of the posts lie.
    """
    summary = found.summary
    fields = summary["fields"]
    names = sorted(summary["classes"], key=lambda name: -summary["classes"][name]["posts"])
    links = {row: f"{folder}/{page_name(row)}" for row in found.explained}
    lists = {name: _rows(rows, links, fields) for name, rows in found.lists.items()}
    explained = [_entry(row, values, links[row], fields) for row, values in found.explained.items()]
    _within_budget([*lists.values(), explained], found.thumbnails)
    return render(
        "explain_set.html",
        title=f"{run} on {posts}",
        summary=summary,
        parts=summary["of_posts_with_both"],
        fields=fields,
        pair=" and ".join(fields) if len(fields) == 2 else "several fields",
        first=fields[0],
        first_share=summary[f"{fields[0]}_share"],
        alone={name: summary[f"{name}_alone"] for name in fields},
        classes=[_class(name, summary["classes"][name], summary["base"].get(name), fields) for name in names[:CLASSES]],
        more_classes=max(0, len(names) - CLASSES),
        top_words=[(name, summary["top_words"][name]) for name in names[:CLASSES] if summary["top_words"].get(name)],
        notices=explain_notices(summary),
        lists=[
            (*_about_list(name, fields, contradicts=summary["contradicts"]), rows)
            for name, rows in lists.items()
            if rows
        ],
        explained=explained,
        has_images=any(found.thumbnails.values()),
        failed=found.failed,
    )  # fmt: skip


def _within_budget(lists: Sequence[Sequence[dict[str, Any]]], thumbnails: Mapping[int, str]) -> None:
    """Give each post of the lists its thumbnail, the first of every list before the second of any, while they fit."""
    left = BUDGET
    for turn in zip_longest(*lists):
        for post in filter(None, turn):
            small = thumbnails.get(int(post["row"]), "")
            left -= len(small)
            post["thumbnail"] = small if left >= 0 else ""


def _class(name: str, values: Mapping[str, Any], base: float | None, fields: Sequence[str]) -> dict[str, Any]:
    counts = values["histogram"]
    most = max(counts, default=0) or 1
    edges = [i / len(counts) for i in range(len(counts))]
    return {
        "name": name,
        "base": base,
        "parts": [values[f"mean_{field}_part"] for field in fields],
        "bars": [
            {"n": n, "height": n / most, "low": low, "high": low + 1 / len(counts)}
            for n, low in zip(counts, edges, strict=True)
        ],
        **values,
    }


def _rows(rows: Sequence[Mapping[str, Any]], links: Mapping[int, str], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            **row,
            "label": _said(row["label"]),
            "true": None if row["true"] is None else _said(row["true"]),
            "link": links.get(int(row["row"])),
            "parts": [(name, row[name], row[f"{name}_share"]) for name in fields],
            "verdict": verdict(
                row["label"], {name: row[name] for name in fields}, {name: row[f"{name}_alone"] for name in fields}
            ),
        }
        for row in rows
    ]


def _said(label: Any) -> str:
    return label if isinstance(label, str) else f"{label:.4g}"


def _entry(row: int, values: Mapping[str, Any], link: str, fields: Sequence[str]) -> dict[str, Any]:
    proba = values.get("probability")
    text = values["text"] if not isinstance(values["text"], dict) else " ".join(filter(None, values["text"].values()))
    parts = (values["log_odds"] if "log_odds" in values else values["value"])[values["explained"]]
    return {
        "row": row,
        "link": link,
        "id": values["id"],
        "label": _said(values["label"]),
        "true": None if values["true"] is None else _said(values["true"]),
        "confidence": None if proba is None else proba[values["explained"]],
        "parts": [(name, parts[name], values[f"{name}_share"]) for name in fields],
        "verdict": values["verdict"],
        "snippet": " ".join((text or "").split())[:200],
    }


_NEIGHBOURS = re.compile(r"<!--neighbours-->.*?<!--/neighbours-->", re.S)


def with_neighbours(page: str, previous: tuple[int, str] | None, following: tuple[int, str] | None) -> str:
    """Return the page of a post with links to the ones before and after it; they are known only when all are done.

    Parameters
    ----------
    page : str
        As :func:`post_page` made it.
    previous, following : (int, str), optional
        Row and id of the posts beside it.
    """
    links = render("explain_neighbours.html", beside=[
        (way, page_name(one[0]), one[1]) for way, one in (("Previous", previous), ("Next", following)) if one
    ])  # fmt: skip
    return _NEIGHBOURS.sub(lambda _: f"<!--neighbours-->{links}<!--/neighbours-->", page, count=1)
