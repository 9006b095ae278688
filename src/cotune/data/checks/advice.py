"""What to do about the faults of a posts table, in words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cotune.errors import listed

if TYPE_CHECKING:
    from cotune.data.checks.quality import QualityReport

_LOPSIDED = 3.0
_FEW = 10
_UNKNOWN = 0.01


def advise(report: QualityReport) -> list[str]:
    """Return one line of advice for each sort of fault found, the most urgent first."""
    return [
        *_about_cells(report),
        *_about_pictures(report),
        *_about_labels(report),
        *report.gaps,
        *_about_texts(report),
        *_about_duplicates(report),
    ]


def _about_cells(report: QualityReport) -> list[str]:
    if not report.row_errors:
        return []
    return [
        f"{_posts(len(report.row_errors))} a cell that cannot be read: put one plain value into it; until then "
        "such posts are left out of training and scores"
    ]


def _about_pictures(report: QualityReport) -> list[str]:
    advice = []
    missing, remote = report.count("missing"), report.count("remote")
    broken = len(report.image_troubles) - missing - remote
    if missing:
        advice.append(
            f"{_posts(missing)} an image that does not exist: fix the paths (relative ones start at "
            "the table's "
            "folder) or empty the cells, so that the posts count as text alone"
        )
    if broken:
        advice.append(
            f"{_posts(broken)} an image that cannot be used: fetch it again, replace it, or empty the "
            "cell so that "
            "the post counts as text alone"
        )
    if remote:
        advice.append(f"{_posts(remote)} an image that could not be fetched: download it, or give --allow-remote")
    if report.mislabelled:
        advice.append(
            f"{_posts(len(report.mislabelled))} an image whose extension is wrong: nothing to do here, "
            "images "
            "are read by content, but other tools may stumble"
        )
    return advice


def _about_labels(report: QualityReport) -> list[str]:
    advice = []
    if report.unlabelled and report.labels:
        advice.append(
            f"{_posts(len(report.unlabelled))} no label: label or remove them before training (predicting needs none)"
        )
    if not report.labels:
        advice.append("no post has a label: predicting needs none, training and evaluating do")
    if len(report.labels) == 1:
        advice.append(f"all labelled posts are {listed(report.labels, quote=True)}: training needs at least two labels")
    if report.imbalance is not None and report.imbalance >= _LOPSIDED:
        advice.append(
            f"the most common label outnumbers the rarest {report.imbalance:.1f} times: train with "
            "--class-weights balanced "
            "and judge by macro F1 or AUC rather than by accuracy"
        )
    if _quantities(report.labels):
        advice.append(
            "the labels are numbers with fractions, which look like a quantity: that needs regression, and cotune "
            "classifies; cut them into classes, such as low and high, unless each number is a class"
        )
    few = [name for name, count in report.labels.items() if count < _FEW]
    if few and len(report.labels) > 1:
        shown = listed(few, most=5, quote=True)
        advice.append(f"fewer than {_FEW} posts carry {shown}: collect more or merge labels; 10 folds need 10 of each")
    alike: dict[str, list[str]] = defaultdict(list)
    for name in report.labels:
        alike["".join(name.casefold().split())].append(name)
    advice.extend(
        f"the labels {listed(names, quote=True)} differ only in case or spaces: make them one"
        for names in alike.values()
        if len(names) > 1
    )
    return advice


def _quantities(labels: Iterable[str]) -> bool:
    """Tell whether all labels are numbers, and some have a fraction."""
    try:
        numbers = [float(name) for name in labels]
    except ValueError:
        return False
    return any(math.isfinite(number) and not number.is_integer() for number in numbers)


def _about_texts(report: QualityReport) -> list[str]:
    advice = []
    if report.without_both:
        advice.append(
            f"{_posts(len(report.without_both))} neither text nor image: remove them, they contain no usable input"
        )
    if report.without_text or report.without_image:
        parts = [
            f"{len(rows):,} lack{'s its' if len(rows) == 1 else ' their'} {what}"
            for rows, what in ((report.without_text, "text"), (report.without_image, "picture"))
            if rows
        ]
        advice.append(f"{' and '.join(parts)}: they are scored by what they have; keep them if new posts are like that")
    tokens = report.tokens
    if tokens is not None and tokens.cut:
        advice.append(
            f"{_posts(len(tokens.cut))} a text that is cut at {tokens.max_tokens} tokens ({tokens.cut_share:.0%} of "
            f"the texts; {tokens.encoder}): train with a larger --max-tokens if the encoder reads more, or put what "
            "matters first"
        )
    if tokens is not None and tokens.unknown_share >= _UNKNOWN:
        examples = listed(tokens.unknown_examples, most=5)
        advice.append(
            f"{tokens.unknown_share:.1%} of the tokens are unknown to {tokens.encoder}"
            f"{f' (such as {examples})' if examples else ''}: they all look alike to it; if they matter, choose an "
            "encoder whose tokenizer knows them"
        )
    if report.long_texts:
        advice.append(
            f"{_posts(len(report.long_texts))} a text of more than {report.max_text_chars:,} characters: "
            "encoders cut "
            "it off (most at 512 tokens or fewer), so put what matters first or shorten it"
        )
    return advice


def _about_duplicates(report: QualityReport) -> list[str]:
    advice = []
    if report.contradictions:
        advice.append(
            f"{_groups(len(report.contradictions))} of posts with the same text and image carr"
            f"{'ies' if len(report.contradictions) == 1 else 'y'} different labels: "
            "decide on one label or remove them"
        )
    if report.near_groups:
        advice.append(
            f"{report.near_posts:,} posts lie in {_groups(report.near_groups)} of near-duplicates: "
            "evaluate with "
            "grouped folds, so that no post is tested on what it was nearly trained on"
        )
    if report.large_group is not None:
        advice.append(report.large_group)
    return advice


def _groups(count: int) -> str:
    return f"{count:,} groups" if count != 1 else "1 group"


def _posts(count: int) -> str:
    return f"{count:,} posts have" if count != 1 else "1 post has"
