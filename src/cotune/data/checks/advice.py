"""What to do about the errors of a posts table, in words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cotune.data.images.folders import ALLOW_OUTSIDE
from cotune.data.normal_forms import normalized
from cotune.data.tables.cells import has_text
from cotune.errors import listed
from cotune.report.notices import Notice, sorted_notices
from cotune.report.numbers import plural

if TYPE_CHECKING:
    from cotune.data.checks.quality import QualityReport

_IMBALANCED = 3.0
_FEW = 10
_UNKNOWN = 0.01
_MANY_CUT = 0.05


def advise(report: QualityReport) -> list[Notice]:
    """Return one piece of advice for each sort of error found, the gravest first.

    A problem is to be fixed before training, a warning to be decided about, a note good to know.
    """
    parts = (_about_cells, _about_images, _about_labels, _about_gaps, _about_duplicates, _about_texts)
    return sorted_notices([advice for part in parts for advice in part(report)])


def _about_cells(report: QualityReport) -> Iterator[Notice]:
    outside = sum(ALLOW_OUTSIDE in item.reason for item in report.row_errors)
    left_out = "until then such posts are left out of training and scores"
    if outside:
        yield Notice(
            "problem",
            f"{_posts(outside)} an image outside of the table's folder: if you trust the table, {ALLOW_OUTSIDE} reads "
            f"it; {left_out}",
        )
    if others := len(report.row_errors) - outside:
        yield Notice("problem", f"{_posts(others)} a cell that cannot be read: put one plain value into it; {left_out}")
    if report.without_both:
        kinds = list(dict.fromkeys(report.fields.values())) or ["text", "image"]
        nothing = f"neither {' nor '.join(kinds)}" if len(kinds) > 1 else f"no {kinds[0]}"
        yield Notice(
            "problem", f"{_posts(len(report.without_both))} {nothing}: remove them, they contain no usable input"
        )


def _about_images(report: QualityReport) -> Iterator[Notice]:
    missing, remote = report.count("missing"), report.count("remote")
    broken = len(report.image_troubles) - missing - remote
    if missing:
        yield Notice(
            "problem",
            f"{_posts(missing)} an image that does not exist: fix the paths (relative ones start at the table's "
            "folder) or empty the cells, so that the posts count as text alone",
        )
    if broken:
        yield Notice(
            "problem",
            f"{_posts(broken)} an image that cannot be used: fetch it again, replace it, or empty the cell so that "
            "the post counts as text alone",
        )
    if remote:
        yield Notice(
            "warning", f"{_posts(remote)} an image that could not be fetched: download it, or give --allow-remote"
        )
    if report.mislabelled:
        yield Notice(
            "note",
            f"{_posts(len(report.mislabelled))} an image whose extension is wrong: nothing to do here, images "
            "are read by content, but other tools may stumble",
        )
    tiny = sum("tiny" in size.kinds for size in report.odd_sizes)
    if tiny and tiny >= report.images["sound"] * _MANY_CUT:
        yield Notice(
            "note",
            f"{_posts(tiny)} a tiny image: encoders enlarge it, but find no detail; use larger copies if there are",
        )


def _about_labels(report: QualityReport) -> Iterator[Notice]:
    if report.unlabelled and report.field_labels:
        yield Notice(
            "note",
            f"{_posts(len(report.unlabelled))} no label of their own: `fit --rule` learns from the labels of their "
            "fields, `fit --task single-label` leaves them out",
        )
    elif report.unlabelled and report.labels:
        yield Notice(
            "warning",
            f"{_posts(len(report.unlabelled))} no label: label or remove them before training (predicting needs none)",
        )
    if not report.labels and not report.field_labels:
        yield Notice("note", "no post has a label: predicting needs none, training and evaluating do")
    if report.task == "regression":
        yield Notice(
            "note",
            "the labels are numbers that training takes for a quantity (regression): nothing to do, unless each is a "
            "class, which --task single-label says",
        )
        return
    if len(report.labels) == 1:
        one = listed(report.labels, quote=True)
        yield Notice("problem", f"all labelled posts are {one}: training needs at least two labels")
    if report.imbalance is not None and report.imbalance >= _IMBALANCED:
        yield Notice(
            "warning",
            f"the most common label outnumbers the rarest {report.imbalance:.1f} times: train with "
            "--class-weights balanced and judge by macro F1 or AUC rather than by accuracy",
        )
    if _quantities(report.labels):
        yield Notice(
            "warning",
            "the labels are numbers with fractions, which look like a quantity, but have few different values: train "
            "with --task regression, unless each number is a class",
        )
    few = [name for name, count in report.labels.items() if count < _FEW]
    if few and len(report.labels) > 1:
        shown = listed(few, most=5, quote=True)
        yield Notice(
            "warning",
            f"fewer than {_FEW} posts carry {shown}: collect more or merge labels; 10 folds need 10 of each",
        )
    alike: dict[str, list[str]] = defaultdict(list)
    for name in report.labels:
        alike["".join(filter(has_text, normalized(name, "NFKC").casefold()))].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield Notice(
                "problem",
                f"the labels {listed(names, quote=True)} differ only in case, spaces or characters that cannot be "
                "seen: make them one",
            )


def _about_gaps(report: QualityReport) -> Iterator[Notice]:
    for line in report.gaps:
        yield Notice("warning", line)


def _quantities(labels: Iterable[str]) -> bool:
    """Tell whether all labels are numbers, and some have a fraction."""
    try:
        numbers = [float(name) for name in labels]
    except ValueError:
        return False
    return any(math.isfinite(number) and not number.is_integer() for number in numbers)


def _about_texts(report: QualityReport) -> Iterator[Notice]:
    if report.without_text or report.without_image:
        parts = [
            f"{len(rows):,} lack{'s its' if len(rows) == 1 else ' their'} {what}"
            for rows, what in ((report.without_text, "text"), (report.without_image, "image"))
            if rows
        ]
        yield Notice(
            "note", f"{' and '.join(parts)}: they are scored by what they have; keep them if new posts are like that"
        )
    tokens = report.tokens
    if tokens is not None and tokens.cut:
        yield Notice(
            "warning" if tokens.cut_share >= _MANY_CUT else "note",
            f"{_posts(len(tokens.cut))} a text that is cut at {tokens.max_tokens} tokens "
            f"({_share(tokens.cut_share)} of the texts; {tokens.encoder}): train with a larger --max-tokens if the "
            "encoder reads more, or put what matters first",
        )
    if tokens is not None and tokens.unknown_share >= _UNKNOWN:
        examples = listed(tokens.unknown_examples, most=5)
        yield Notice(
            "warning",
            f"{tokens.unknown_share:.1%} of the tokens are unknown to {tokens.encoder}"
            f"{f' (such as {examples})' if examples else ''}: they all look alike to it; if they matter, choose an "
            "encoder whose tokenizer knows them",
        )
    if report.long_texts:
        yield Notice(
            "note",
            f"{_posts(len(report.long_texts))} a text of more than {report.max_text_chars:,} characters: encoders cut "
            "it off (most at 512 tokens or fewer), so put what matters first or shorten it",
        )


def _about_duplicates(report: QualityReport) -> Iterator[Notice]:
    if report.contradictions:
        several = len(report.contradictions) > 1
        yield Notice(
            "problem",
            f"{plural(len(report.contradictions), 'group')} of posts with the {report.contradictions[0].by} "
            f"carr{'y' if several else 'ies'} different labels: decide on one label or remove them",
        )
    if report.near_groups:
        yield Notice(
            "warning",
            f"{report.near_posts:,} posts lie in {plural(report.near_groups, 'group')} of near-duplicates: evaluate "
            "with grouped folds, so that no post is tested on what it was nearly trained on",
        )
    if report.large_group is not None:
        yield Notice("warning", report.large_group)


def _posts(count: int) -> str:
    return f"{plural(count, 'post')} {'has' if count == 1 else 'have'}"


def _share(part: float) -> str:
    return "<0.1%" if 0 < part < 0.0005 else f"{part:.1%}"
