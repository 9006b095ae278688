"""A whole posts table explained: shares of all posts in one stream, words and pixels of a few.

Every chunk and every page is kept when it is done, so that what was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cotune.data.predictions import predictions_writer
from cotune.encoders.base import EncoderOutput
from cotune.errors import RunError
from cotune.explain.explainer import Explainer
from cotune.explain.explanation import Explanation
from cotune.explain.table.second_pass import ExplainPlan, Kept, SecondPass
from cotune.explain.table.summary import TableSummary, kept_columns
from cotune.files import atomic_path, to_json, write_json
from cotune.heads import Embeddings
from cotune.heads.contributions import removed_state
from cotune.ownership import EXPLANATIONS as KIND
from cotune.progress import Progress
from cotune.report.notebook import tables_html
from cotune.report.numbers import plural
from cotune.report.terminal import posts_table, shares_table
from cotune.seen_check import SeenCheck

UNFINISHED = ".unfinished"
MODALITY, SUMMARY, EXPLANATIONS = "modality.csv", "summary.json", "explanations.jsonl"

Chunks = Callable[[], Iterable[pd.DataFrame]]


@dataclass
class ExplainedPosts:
    """What explaining a table gives.

    Attributes
    ----------
    summary : dict
        See :meth:`cotune.explain.table.summary.TableSummary.to_dict`; with ``emap``, ``top_words`` and ``notes``.
    lists : dict
        Posts whose fields disagree most, that are driven most by one field, or that are wrong and sure of it.
    explained : list of dict
        The explanations, as plain values, by row of the table.
    failed : dict
        Rows whose words and pixels could not be explained, with the reason.
    thumbnails : dict
        Small images of posts in the lists and of explained ones, as ``data:`` URIs by row; some may lack one.
    """

    summary: dict[str, Any]
    lists: dict[str, list[dict[str, Any]]]
    explained: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    thumbnails: dict[int, str] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        summary = self.summary
        lists = [posts_table(rows, name, summary["fields"]) for name, rows in self.lists.items() if rows]
        errors = [f"{plural(summary['errors'], 'post')} without a prediction"] if summary["errors"] else []
        return tables_html([shares_table(summary)], folded=lists, notes=[*summary["notes"], *errors])


def explain_posts(
    explainer: Explainer,
    chunks: Chunks,
    plan: ExplainPlan,
    *,
    out: Path | None = None,
    key: Mapping[str, Any] | None = None,
    on_explanation: Callable[[int, Explanation], None] | None = None,
    progress: Progress | None = None,
) -> ExplainedPosts:
    """Explain all posts of a table.

    Parameters
    ----------
    explainer : Explainer
        The run.
    chunks : callable
        Opens the table and gives its posts in chunks, the same ones each time.
    plan : ExplainPlan
        How much to explain.
    out : Path, optional
        Folder for the results and for what makes it possible to resume; without it nothing is written.
    key : mapping, optional
        What the chunks and explanations depend on, as plain values; other ones there are thrown away.
    on_explanation : callable, optional
        Takes the row and the explanation of each post whose words and pixels are explained.
    progress : Progress, optional
        Progress reporter.
    """
    progress = progress or Progress()
    kept = None if out is None else Kept(out / UNFINISHED, {**(key or {}), **vars(plan)})
    if kept is not None:
        kept.begin()
    summary = TableSummary(explainer.run.task, explainer.field_names, plan.limit)
    seen = SeenCheck(explainer)
    for frame in _frames(explainer, chunks, kept, seen, progress):
        summary.add(frame)
    notes = seen.found().notes()
    for note in notes:
        progress.say(f"note: {note}")
    summary.base = _base(explainer)
    lists = {name: best.ranked() for name, best in summary.best.items()}
    second_pass = SecondPass(explainer, plan, summary, lists, kept, on_explanation)
    second_pass.run(chunks(), progress)
    found = {
        **summary.to_dict(),
        "removed": removed_state(explainer.model.head, explainer.field_names),
        "emap": second_pass.emap(),
        "top_words": second_pass.top_words(),
        "word_posts": second_pass.word_posts(),
        "notes": notes,
    }
    explained = dict(sorted(second_pass.explained.items()))
    result = ExplainedPosts(found, lists, explained, second_pass.failed, second_pass.thumbnails)
    if out is not None:
        _write(out, explainer, plan, result, kept)
    return result


def finish(out: Path) -> None:
    """Remove what only served to go on; to be called when all results are written."""
    Kept(out / UNFINISHED, {}).remove()


def _frames(
    explainer: Explainer, chunks: Chunks, kept: Kept | None, seen: SeenCheck, progress: Progress
) -> Iterator[pd.DataFrame]:
    columns, texts = explainer.contribution_columns(), explainer.text_columns()
    for number, posts in enumerate(progress.track(chunks(), "shares (in chunks)", None)):
        seen.update(posts)
        frame = None if kept is None else kept.read(number, columns, texts)
        if frame is None or len(frame) != len(posts):  # not done yet, or damaged
            frame = explainer.contribution_frame(posts)
            if kept is not None:
                kept.write(number, frame, texts)
        yield frame


def _base(explainer: Explainer) -> dict[str, float]:
    """Return what is predicted with all fields removed, on the scale of contributions."""
    head, device = explainer.model.head, explainer.device
    nothing = torch.zeros((1, len(head.fields)), dtype=torch.bool, device=device)
    empty = {name: torch.zeros((1, dim), device=device) for name, dim in head.dims.items()}
    states = {name: EncoderOutput(empty[name], empty[name].unsqueeze(1)) for name in empty if head.needs_states}
    with torch.inference_mode():
        outputs = explainer.run.task.contribution_scale(head(Embeddings(empty, nothing, states)))
    return dict(zip(explainer.run.classes, outputs[0].cpu().double().tolist(), strict=True))


def _write(out: Path, explainer: Explainer, plan: ExplainPlan, result: ExplainedPosts, kept: Kept | None) -> None:
    """Write the tables; the pages are made by whoever knows how a page looks."""
    assert kept is not None
    columns, texts = explainer.contribution_columns(), explainer.text_columns()
    with predictions_writer(out / MODALITY, columns, texts) as write:
        for number in range(len(kept.chunks())):
            frame = kept.read(number, columns, texts)
            if frame is None:
                raise RunError(f"{kept.chunk(number)} was damaged while it was needed; "
                               "the same command computes it again")  # fmt: skip
            write(frame)
    lines = (to_json(found, indent=None) + "\n" for found in result.explained.values())
    with atomic_path(out / EXPLANATIONS) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(lines)
    if plan.find is not None:
        write_list(out / f"{plan.find}.csv", result.lists[plan.find], explainer)
    found = {**result.summary, "lists": result.lists, "not_explained": result.failed}
    write_json(out / SUMMARY, {**KIND.mark(), **found})


def write_list(path: Path, rows: list[dict[str, Any]], explainer: Explainer) -> None:
    """Write one of the lists of posts as a table."""
    columns = [*kept_columns(explainer.contribution_columns()), "snippet"]
    with predictions_writer(path, columns, {*explainer.text_columns(), "snippet"}) as write:
        write(pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=columns, dtype=object))
