"""The posts whose label is most likely wrong: as a page to go through by keyboard, and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from cotune.benchmark.label_issues import LabelIssue, LabelReview
from cotune.data.posts import data_hash
from cotune.data.tables.cells import LABEL_SEPARATOR
from cotune.fields import Field
from cotune.report.data_report import listing
from cotune.report.notices import Notice
from cotune.report.numbers import plural
from cotune.report.pages import render
from cotune.report.post_cards import PostCard, PostCards

MOST = 250
"""Posts that a page holds; check.json has all, and the next ones come once these are decided."""
_SIDE, _BUDGET, _CHARACTERS, _ROW_TEXT = 320, 4_200_000, 1_200, 120


def review_page(review: LabelReview, posts: pd.DataFrame, fields: Sequence[Field], *, name: str) -> str:
    """Return the page that goes through posts one by one and saves ``decisions.csv``.

    Parameters
    ----------
    review : LabelReview
        What was found.
    posts : DataFrame
        The posts it is about.
    fields : sequence of Field
        What they have.
    name : str
        What the table is called.
    """
    shown = review.issues[:MOST]
    cards = PostCards(posts, fields, _CHARACTERS).make([item.row for item in shown], side=_SIDE, budget=_BUDGET)
    data = {
        "key": f"cotune-review:{data_hash(posts, tuple(fields))[:32]}",
        "task": review.task,
        "separator": LABEL_SEPARATOR,
        "labels": review.labels,
        "posts": [_post(item, cards[item.row], review) for item in shown],
    }
    return render(
        "review.html",
        script="review.js",
        title=f"Labels to review in {name}",
        data=data,
        notices=_notices(review, len(shown)),
        labels=review.labels,
        task=review.task,
        rows=[(item, _beginning(cards[item.row])) for item in shown],
        about=_about(review),
    )


def _post(item: LabelIssue, card: PostCard, review: LabelReview) -> dict[str, Any]:
    """Return what the script shows of a post."""
    return {
        "row": item.row,
        "id": item.id,
        "given": item.given,
        "suggested": item.suggested,
        "p": [item.probabilities[label] for label in review.labels],
        "texts": card.texts,
        "images": card.images,
    }


def _beginning(card: PostCard) -> str:
    text = " · ".join(text for _, text in card.texts)
    return text if len(text) <= _ROW_TEXT else f"{text[:_ROW_TEXT]}…"


def _notices(review: LabelReview, shown: int) -> list[Notice]:
    found = []
    if review.note is not None:
        found.append(Notice("warning", f"{review.note[:1].upper()}{review.note[1:]}."))
    n = len(review.issues)
    if not n:
        found.append(Notice("good", f"No label of {review.checked:,} posts stands out as wrong."))
    else:
        share = f"{n / review.checked:.1%} of {review.checked:,} posts"
        most = f" The {shown:,} worst are here; check again after them." if shown < n else ""
        line = f"{plural(n, 'label')} ({share}) look{'s' if n == 1 else ''} wrong to a model that did not see the post."
        found.append(Notice("note", f"{line}{most} The model errs too: where it is wrong, keep the label."))
    return found


def _about(review: LabelReview) -> str:
    return (
        "Confident learning (Northcutt et al., 2021; cleanlab) on predictions of a fusion head that was trained on the "
        f"other parts in {review.folds}-fold cross-validation, near-duplicates kept together; {review.encoders}. By "
        f"the given labels, these predictions have {review.score_name} {review.score:.3f}."
    )


def render_review(review: LabelReview, most: int = 8) -> Group:
    """Return the posts whose label is most likely wrong, for a terminal; the first `most` are shown."""
    rows = [(str(item.row), item.id, item.given, item.suggested, f"{item.quality:.2f}") for item in review.issues]
    head = ("row", "id", "given", "suggested", "quality")
    table = (
        listing("Labels most likely wrong", head, rows, most)
        if rows
        else Text("No label stands out as wrong.", style="green")
    )
    score = f"{review.score_name} {review.score:.3f} by the given labels"
    about = Text(f"{review.checked:,} posts, {review.folds} folds, {review.encoders}; {score}", style="dim")
    return Group(table, about, *([Text(f"note: {review.note}")] if review.note else []), Text(""))
