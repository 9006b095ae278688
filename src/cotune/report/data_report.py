"""What checks and imports of data found, laid out for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from cotune.errors import clip as shorten
from cotune.report.numbers import plural

if TYPE_CHECKING:
    from cotune.data.checks.quality import QualityReport
    from cotune.data.checks.token_counts import TokenCounts
    from cotune.data.importers.base import ImportReport, Problem


_LABELS = 30


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def listing(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], most: int, *, clip: bool = False
) -> RenderableType:
    """Return a titled table of at most `most` rows; `clip` keeps each on one line."""
    table = Table(title=f"{title}: {len(rows):,}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, name in enumerate(header):
        last = name == header[-1]
        width = None if last else min(40, max(len(row[i]) for row in [header, *rows[:most]]))
        overflow: OverflowMethod = "ellipsis" if clip and last else "fold"
        table.add_column(name, overflow=overflow, header_style="dim", no_wrap=clip or not last, min_width=width)
    for row in rows[:most]:
        table.add_row(*(Text(shorten(cell)) for cell in row))
    if len(rows) > most:
        return Group(table, Text(f"... and {len(rows) - most:,} more (--json lists all)", style="dim"))
    return table


def shares(counts: Mapping[str, int]) -> str:
    """Return counts with their percentages on one line."""
    total = sum(counts.values()) or 1
    shown = [f"{shorten(name, 60)} {count:,} ({count / total:.0%})" for name, count in list(counts.items())[:_LABELS]]
    return ", ".join(shown) + (f" and {len(counts) - _LABELS:,} more" if len(counts) > _LABELS else "") or "none"


def render_import(report: ImportReport, most: int = 8) -> Group:
    """Return an import report for a terminal; of each kind of problem the first `most` are shown."""
    rows = [("raw data", f"{report.dataset}, {report.source}"), ("records read", f"{report.lines:,}")]
    done = "left out" if not report.unlabelled else "without a label"
    if report.rule:
        rows.append(("rule", report.rule))
    rows += [("posts written", f"{report.posts:,}"), ("labels", shares(report.labels))]
    for name, count in (
        ("without a label", report.unlabelled),
        (f"conflicts ({done})", len(report.conflicts)),
        (f"ties ({done})", len(report.ties)),
        ("other records left out", len(report.problems)),
        ("left by --balance", report.left_by_balance),
    ):
        if count:
            rows.append((name, f"{count:,}"))
    parts: list[RenderableType] = [facts("Import", rows)]
    for title, found in (("Conflicts", report.conflicts), ("Ties", report.ties)):
        if found:
            parts.append(_problems(title, found, most))
    kinds = dict.fromkeys(problem.kind for problem in [*report.problems, *report.notes])
    for kind in kinds:
        left_out = [problem for problem in report.problems if problem.kind == kind]
        kept = [problem for problem in report.notes if problem.kind == kind]
        if left_out:
            parts.append(_problems(f"{kind.capitalize()} (left out)", left_out, most))
        if kept:
            parts.append(_problems(f"{kind.capitalize()} (kept)", kept, most))
    return _spaced(parts)


def _spaced(parts: Sequence[RenderableType]) -> Group:
    """Return parts with an empty line after each but the last."""
    return Group(*[item for part in parts for item in (part, Text(""))][:-1])


def _problems(title: str, found: Sequence[Problem], most: int) -> RenderableType:
    rows = [
        (item.id or "", "" if item.line is None else str(item.line), item.file or "", item.reason) for item in found
    ]
    return listing(title, ("id", "line", "file", "reason"), rows, most)


def render_quality(report: QualityReport, most: int = 8) -> Group:
    """Return a quality report for a terminal; of each listing the first `most` lines are shown."""
    images = report.images
    counts = {
        "without a label": len(report.unlabelled),
        "without text": len(report.without_text),
        "without image": len(report.without_image),
        "without both": len(report.without_both),
        "with an unreadable cell": len(report.row_errors),
        f"texts over {report.max_text_chars:,} characters": len(report.long_texts),
    }
    rows = [
        ("posts", f"{report.posts:,}"),
        ("labels", shares(report.labels)),
        *((f"labels of {name}", shares(votes)) for name, votes in report.field_labels.items()),
        *([] if report.imbalance is None else [("imbalance", f"{report.imbalance:.1f} to 1")]),
        *((name, f"{count:,}") for name, count in counts.items() if count),
        ("images", f"{images['posts']:,} referenced, {images['different']:,} unique, {images['sound']:,} readable"),
    ]
    if report.tokens is not None:
        rows += _tokens(report.tokens)
    if images["sound"]:
        rows.append(("median size", f"{images['width']} x {images['height']} pixels"))
    kinds = dict.fromkeys(trouble.kind for trouble in [*report.image_troubles, *report.mislabelled])
    rows.extend((f"images: {kind}", f"{report.count(kind):,}") for kind in kinds)
    for by in dict.fromkeys(group.by for group in report.duplicates):
        groups = report.of(by)
        rows.append((by, f"{plural(len(groups), 'group')} of {sum(len(group.rows) for group in groups):,} posts"))
    advice: list[RenderableType] = [Text("What to do", style="bold"), *(f"- {line.text}" for line in report.advice)]
    parts: list[RenderableType] = [Group(*advice) if report.advice else Text("Nothing to fix.", style="green")]
    parts.append(facts("Posts", rows))
    for title, troubles in (("Images that cannot be used", report.image_troubles),
                            ("Images with the wrong extension", report.mislabelled)):  # fmt: skip
        if troubles:
            lines = [(str(item.row), item.id, item.kind, f"{item.reason} ({item.image})") for item in troubles]
            parts.append(listing(title, ("row", "id", "kind", "reason"), lines, most))
    if report.row_errors:
        cells = [(str(item.row), item.id, item.reason) for item in report.row_errors]
        parts.insert(2, listing("Cells that cannot be read", ("row", "id", "reason"), cells, most))
    if report.long_texts:
        lengths = [(str(row), f"{length:,}") for row, length in report.long_texts]
        parts.append(listing("Over-long texts", ("row", "characters"), lengths, most))
    if report.contradictions:
        found = [(_rows(item.rows), ", ".join(item.labels), item.sample) for item in report.contradictions]
        header = ("rows", "labels", "first")
        parts.append(listing("Same posts with different labels", header, found, most, clip=True))
    if report.duplicates:
        largest_first = sorted(report.duplicates, key=lambda group: -len(group.rows))
        lines = [(item.by, _rows(item.rows), ", ".join(item.labels), item.sample) for item in largest_first]
        parts.append(listing("Duplicates", ("what", "rows", "labels", "first"), lines, most, clip=True))
    return _spaced(parts)


def _tokens(found: TokenCounts) -> list[tuple[str, str]]:
    rows = []
    if found.cut:
        cut = f"{len(found.cut):,} ({found.cut_share:.1%}) by {found.encoder}"
        rows.append((f"texts cut at {found.max_tokens} tokens", cut))
    if found.unknown:
        examples = ", ".join(f"{name} {count:,}" for name, count in found.unknown_examples.items())
        rows.append(
            (
                "unknown tokens",
                f"{found.unknown_share:.1%}, in {plural(found.unknown_texts, 'text')}"
                + (f" ({examples})" if examples else ""),
            )
        )
    return rows


def _rows(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:3])) + (f" +{len(rows) - 3}" if len(rows) > 3 else "")
