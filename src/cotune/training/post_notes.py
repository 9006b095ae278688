"""Notes on the posts before training: rows left out, texts cut, gaps, posts that come twice."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cotune.data.checks.gaps import class_gaps
from cotune.data.checks.token_counts import cut_texts
from cotune.data.tables.row_errors import has_row_error, row_error_notes
from cotune.encoders.text import TextEncoder
from cotune.errors import DataError
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.tasks import Task
from cotune.training.features import Features


def readable_posts(posts: pd.DataFrame, progress: Progress) -> tuple[pd.DataFrame, int]:
    """Return the posts whose cells could all be read, and how many could not."""
    bad = has_row_error(posts)
    if not bad.any():
        return posts, 0
    for note in row_error_notes(posts):
        progress.say(note)
    if bad.all():
        raise DataError("every post has a cell that cannot be read; see `cotune check`")
    return posts[~bad].reset_index(drop=True), int(bad.sum())


def count_cut_texts(posts: pd.DataFrame, features: Features, progress: Progress) -> dict[str, int]:
    """Count the texts that are too long for their encoder, and tell."""
    found: dict[str, int] = {}
    for name, encoder in features.encoders.items():
        if not isinstance(encoder, TextEncoder):
            continue
        prepared = features.fields[name]
        texts, lengths = posts[name].tolist(), prepared.lengths.tolist()
        cut = len(cut_texts(texts, lengths, encoder.tokenizer, encoder.max_tokens))
        if cut:
            share = cut / max(1, int(prepared.present.sum()))
            what = "text" if name == "text" else f"text in {name!r}"
            progress.say(
                f"note: {plural(cut, 'post')} ({share:.0%}) {'has' if cut == 1 else 'have'} a "
                f"{what} that is cut at {encoder.max_tokens} tokens; a larger --max-tokens reads more if the encoder "
                "can"
            )
        found = {"texts_cut": found.get("texts_cut", 0) + cut, "max_tokens": encoder.max_tokens}
    return found


def count_overlap(
    features: Features, rows: np.ndarray, theirs: Features, their_rows: np.ndarray, progress: Progress
) -> int:
    """Count the validation posts that are training posts too, and tell."""
    trained = {features.content(row) for row in rows}
    both = sum(theirs.content(row) in trained for row in their_rows)
    if both:
        same = " and ".join(features.fields)
        progress.say(
            f"note: {both:,} of {len(their_rows):,} validation posts are training posts too (same {same}), so "
            "that validation scores come out too high; leave them out of one of the two tables"
        )
    return both


def tell_gaps(posts: pd.DataFrame, features: Features, rows: np.ndarray, task: Task, progress: Progress) -> None:
    """Tell which field is missing in one class far more often than in the others."""
    if task.target_type != "multiclass":
        return
    rows = rows[posts["label"].iloc[rows].notna().to_numpy()]
    present = {name: prepared.present[rows] for name, prepared in features.fields.items()}
    for gap in class_gaps(present, posts["label"].iloc[rows].tolist()):
        progress.say(f"note: {gap}")
