"""The page of a comparison with training posts: the verdict, every test, the posts that look least like them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cotune.drift.compare import ALPHA, CLEAR_AUC, CLEAR_SHARE, IN_WORDS, Drift
from cotune.fields import Field
from cotune.report.notices import Level, Notice
from cotune.report.pages import render
from cotune.report.post_cards import PostCards

_LEVELS: dict[str, Level] = {"none": "good", "some": "warning", "clear": "problem", "unknown": "warning"}


def drift_report(found: Drift, posts: pd.DataFrame, fields: Sequence[Field], *, name: str, posts_name: str) -> str:
    """Return the page.

    Parameters
    ----------
    found : Drift
        The comparison.
    posts : DataFrame
        The posts that were compared.
    fields : sequence of Field
        What they have.
    name, posts_name : str
        What run and table are called.
    """
    cards = PostCards(posts, fields).make(post["row"] for post in found.unlike)
    notes = [Notice("note", f"{note[:1].upper()}{note[1:]}.") for note in found.notes]
    return render(
        "drift.html",
        title=f"{posts_name} compared with {name}",
        notices=[Notice(_LEVELS[found.verdict], IN_WORDS[found.verdict]), *notes],
        found=found,
        shifted=sum(test.shifted for test in found.tests),
        counted=sum(test.p_adjusted is not None for test in found.tests),
        cards=[(post, cards[post["row"]]) for post in found.unlike],
        several=len(fields) > 1,
        rules=(ALPHA, CLEAR_AUC, CLEAR_SHARE),
    )
