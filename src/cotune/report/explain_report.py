"""Pages about explained posts: one for each post and one for the whole table, each a file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.explain.explanation import Explanation, verdict
from cotune.explain.table.explain_posts import ExplainedPosts
from cotune.report.explanation import STYLE, fragment
from cotune.report.pages import render, style_sheet

#: Classes shown in full; the rest are in the summary's JSON.
CLASSES = 20
_LISTS = {
    "conflicts": (
        "Text and image pull apart most",
        "Opposite contributions to the predicted class, ranked by the smaller of the two, so that both have to pull.",
    ),
    "image_driven": (
        "Most image-driven",
        "Of the posts that have both, those with the largest share of the image.",
    ),
    "text_driven": (
        "Most text-driven",
        "Of the posts that have both, those with the largest share of the text.",
    ),
    "mistakes": (
        "Wrong and sure of it",
        "Posts whose label is another than the predicted one, the most confident first.",
    ),
}


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
    return render(
        "explain_post.html", title=f"Post {found.id}", row=row, run=run, index=index,
        explanation=fragment(found.to_dict(), found.picture), css=style_sheet(STYLE),
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
    names = sorted(summary["classes"], key=lambda name: -summary["classes"][name]["posts"])
    links = {row: f"{folder}/{page_name(row)}" for row in found.explained}
    return render(
        "explain_set.html",
        title=f"{run} on {posts}",
        summary=summary,
        parts=summary["of_posts_with_both"],
        classes=[_class(name, summary["classes"][name], summary["base"][name]) for name in names[:CLASSES]],
        more_classes=max(0, len(names) - CLASSES),
        top_words=[(name, summary["top_words"][name]) for name in names[:CLASSES] if summary["top_words"].get(name)],
        lists=[(*_LISTS[name], _rows(rows, links)) for name, rows in found.lists.items() if rows],
        explained=[_entry(row, values, links[row]) for row, values in found.explained.items()],
        failed=found.failed,
        zeros=[name for name, by in summary["removed"].items() if by == "zeros"],
    )  # fmt: skip


def _class(name: str, values: Mapping[str, Any], base: float) -> dict[str, Any]:
    counts = values["histogram"]
    most = max(counts, default=0) or 1
    edges = [i / len(counts) for i in range(len(counts))]
    return {
        "name": name,
        "base": base,
        "bars": [
            {"n": n, "height": n / most, "low": low, "high": low + 1 / len(counts)}
            for n, low in zip(counts, edges, strict=True)
        ],
        **values,
    }


def _rows(rows: Sequence[Mapping[str, Any]], links: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {**row, "link": links.get(int(row["row"])),
         "verdict": verdict(row["label"], row["text"], row["image"], row["text_alone"], row["image_alone"])}
        for row in rows
    ]  # fmt: skip


def _entry(row: int, values: Mapping[str, Any], link: str) -> dict[str, Any]:
    return {
        "row": row,
        "link": link,
        "id": values["id"],
        "label": values["label"],
        "true": values["true"],
        "confidence": values["probability"][values["label"]],
        "text_share": values["text_share"],
        "snippet": " ".join((values["text"] or "").split())[:120],
    }
