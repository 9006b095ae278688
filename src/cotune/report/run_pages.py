"""The pages of a run: its report, and the posts that were held out."""

from __future__ import annotations

import pandas as pd

from cotune.report.posts_page import ShownPosts, posts_page
from cotune.report.run_report import run_report
from cotune.run import Run
from cotune.run_settings import POSTS_PAGE, REPORT


def run_pages(run: Run, held_out: tuple[pd.DataFrame, pd.DataFrame] | None, *, name: str) -> dict[str, str]:
    """Return the pages of a run by file name.

    Parameters
    ----------
    run : Run
        The trained run.
    held_out : tuple of DataFrame or None
        The posts that were held out, and their predictions.
    name : str
        What to call the run.
    """
    if held_out is None:
        return {REPORT: run_report(run, name=name)}
    shown = ShownPosts(run.task, run.fields)
    shown.add(*held_out)
    return {
        REPORT: run_report(run, name=name, posts_page=POSTS_PAGE),
        POSTS_PAGE: posts_page(shown, title=f"Held-out posts of {name}"),
    }
