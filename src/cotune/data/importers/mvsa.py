"""The raw MVSA-Single and MVSA-Multiple folders, and their annotators' labels made one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cotune.data.importers.base import (
    IMAGE_SUFFIXES,
    FileIndex,
    ImportReport,
    Problem,
    RawFiles,
    bare,
    find_folder,
    numbered_lines,
)
from cotune.data.importers.splits import PublishedSplits, read_splits
from cotune.data.posts import clean_text
from cotune.data.tables.cells import FIELD_LABEL, LABEL_SEPARATOR
from cotune.errors import ConfigError, DataError, did_you_mean
from cotune.report.numbers import plural

Rule = Literal["xu-mao", "majority-text", "majority-all"]
Votes = Sequence[tuple[str, str]]

_SENTIMENTS = ("negative", "neutral", "positive")
_LABEL_FILE = "labelResultAll.txt"
_MOST_BYTES = 64 * 2**20  # of one text
_LAYOUT = f"{_LABEL_FILE} and a folder data/ with N.jpg and N.txt"


class _NoLabelError(Exception):
    """The annotators' votes give no label; `conflict` tells whether text and image contradict each other."""

    def __init__(self, reason: str, *, conflict: bool = False) -> None:
        super().__init__(reason)
        self.conflict = conflict


def _most_common(votes: Sequence[str], what: str) -> str:
    ranked = Counter(votes).most_common()
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        raise _NoLabelError(f"no label is the most common {what} ({', '.join(votes)})")
    return ranked[0][0]


def _xu_mao(votes: Votes) -> str:
    """Combine the majorities of both modalities as Xu and Mao do: neutral gives way."""
    text = _most_common([vote[0] for vote in votes], "for the text")
    image = _most_common([vote[1] for vote in votes], "for the image")
    if text == image or image == "neutral":
        return text
    if text == "neutral":
        return image
    raise _NoLabelError(f"text {text}, image {image}", conflict=True)


def _majority_text(votes: Votes) -> str:
    return _most_common([vote[0] for vote in votes], "for the text")


def _majority_all(votes: Votes) -> str:
    return _most_common([label for vote in votes for label in vote], "over text and image")


RULES: dict[str, Callable[[Votes], str]] = {
    "xu-mao": _xu_mao,
    "majority-text": _majority_text,
    "majority-all": _majority_all,
}


@dataclass
class CombinedLabels:
    """One label for each post of a label file, as far as the rule gives one.

    Attributes
    ----------
    labels : dict
        Id to label, in the order of the file.
    lines : dict
        Id to line number.
    votes : dict
        Id to the annotators' pairs of labels, of text and of image, in the order of the file.
    rows : int
        Records read, good or bad.
    conflicts, ties, problems : list of Problem
        Posts without a label and lines that cannot be read.
    """

    labels: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    votes: dict[str, Votes] = field(default_factory=dict)
    rows: int = 0
    conflicts: list[Problem] = field(default_factory=list)
    ties: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def combine_labels(label_file: str | Path, *, rule: Rule = "xu-mao") -> CombinedLabels:
    """Combine the annotators' labels of one MVSA label file; the posts' own files are not needed.

    Parameters
    ----------
    label_file : path
        A `labelResultAll.txt`: an id, then one ``text,image`` pair for each of any number of annotators.
    rule : {"xu-mao", "majority-text", "majority-all"}
        "xu-mao" takes the most common label for text and for image; when they differ neutral gives way, and
        positive against negative is a conflict. "majority-text" takes the most common text label,
        "majority-all" the most common of all text and image labels.
    """
    if rule not in RULES:
        raise ConfigError(f"unknown rule {rule!r}{did_you_mean(str(rule), RULES)}; known are: {', '.join(RULES)}")
    combined = CombinedLabels()
    seen: set[str] = set()
    for number, raw in numbered_lines(Path(label_file)):
        line = raw.decode("utf-8", errors="replace")
        if not line.strip() or (number == 1 and line.strip().lower().startswith("id")):
            continue
        combined.rows += 1
        identity, *pairs = line.split()
        try:
            votes = [_vote(pair) for pair in pairs]
            if not votes:
                raise ValueError("no annotator's labels")
            if bare(identity) in seen:
                raise ValueError("the id occurred before; the first counts")
        except ValueError as error:
            combined.problems.append(Problem("bad line", str(error), identity, number))
            continue
        seen.add(bare(identity))
        combined.votes[identity], combined.lines[identity] = votes, number
        try:
            combined.labels[identity] = RULES[rule](votes)
        except _NoLabelError as none:
            kind, where = ("conflict", combined.conflicts) if none.conflict else ("tie", combined.ties)
            where.append(Problem(kind, str(none), identity, number))
    return combined


def _vote(pair: str) -> tuple[str, str]:
    labels = [label.strip().lower() for label in pair.split(",")]
    wrong = [label for label in labels if label not in _SENTIMENTS]
    if wrong or len(labels) != 2:
        raise ValueError(f"{pair!r} is not a pair of {', '.join(_SENTIMENTS)}")
    return labels[0], labels[1]


def import_mvsa(
    raw: str | Path,
    *,
    rule: Rule = "xu-mao",
    balance: int | None = None,
    seed: int = 42,
    splits: str | Path | None = None,
    annotations: bool = False,
    allow_outside: bool = False,
) -> tuple[pd.DataFrame, ImportReport]:
    """Turn a raw MVSA folder into posts; nothing is copied.

    Parameters
    ----------
    raw : path
        The folder with `labelResultAll.txt` and `data/`, or the one above it.
    rule : {"xu-mao", "majority-text", "majority-all"}
        How labels are combined, see :func:`combine_labels`.
    balance : int, optional
        Draw at most this many posts of each label.
    seed : int
        Of that draw.
    splits : path, optional
        A folder with published splits (see :mod:`cotune.data.importers.splits`): each becomes a column.
    annotations : bool
        Write the annotators' labels of each field as well, in `label:text` and `label:image`, and keep the posts
        that the rule gives no label: their fields' labels teach.
    allow_outside : bool
        Read files too that links lead to outside of the folder.

    Returns
    -------
    posts : pandas.DataFrame
        `id`, `text`, `image` (absolute paths) and `label`; `label:text` and `label:image` with `annotations`; `split`,
        or `split_1` and so on, where splits are given.
    report : ImportReport
        Counts, and every record left out with its reason.
    """
    if balance is not None and balance < 1:
        raise ConfigError(f"--balance must be at least 1 post for each label, not {balance}")
    folder, label_file = find_folder(Path(raw), _LABEL_FILE, "MVSA", _LAYOUT)
    combined = combine_labels(label_file, rule=rule)
    report = ImportReport("MVSA", str(raw), rule, combined.rows)
    report.problems.extend(combined.problems)
    report.conflicts, report.ties = combined.conflicts, combined.ties
    raw_files = RawFiles(Path(raw), report, allow_outside=allow_outside)
    index = FileIndex((folder / "data").absolute())
    records = []
    for identity in combined.votes if annotations else combined.labels:
        line, label = combined.lines[identity], combined.labels.get(identity)
        text, image = _read_text(index, identity, line, raw_files), _find_image(index, identity, line, raw_files)
        if text is not None and image is not None:
            records.append((identity, text, image, label))
    if not records:
        raise DataError(f"{folder}: of {plural(combined.rows, 'post')} none is whole; a raw MVSA folder has {_LAYOUT}")
    frame = pd.DataFrame(records, columns=["id", "text", "image", "label"], dtype=object)
    if annotations:
        for at, name in enumerate(("text", "image")):
            frame[f"{FIELD_LABEL}{name}"] = [
                LABEL_SEPARATOR.join(vote[at] for vote in combined.votes[identity]) for identity in frame["id"]
            ]
        kept = int(frame["label"].isna().sum())
        reason = f"{plural(kept, 'post')} without a label {'is' if kept == 1 else 'are'} kept for the labels of fields"
        report.notes.append(Problem("annotations", reason))
    if balance is not None:
        whole = len(frame)
        frame = draw_balanced(frame, balance, seed)
        report.left_by_balance = whole - len(frame)
    if splits is not None:
        _add_splits(frame, read_splits(splits), report)
    report.finish(frame)
    return frame, report


def _add_splits(frame: pd.DataFrame, splits: PublishedSplits, report: ImportReport) -> None:
    """Add a column for each published split, and note how it differs from what was imported."""
    ids = [bare(identity) for identity in frame["id"]]
    for name, parts in splits.columns.items():
        named = {bare(identity): part for identity, part in parts.items()}
        frame[name] = pd.Series([named.get(identity) for identity in ids], dtype=object)
        lost = len(named.keys() - set(ids))
        without = int(frame[name].isna().sum())
        notes = [
            (lost, plural(lost, "of its posts is not imported", "of its posts are not imported")),
            (without, plural(without, "imported post is in no part of it", "imported posts are in no part of it")),
        ]
        report.notes += [Problem("published split", reason, file=name) for n, reason in notes if n]
    published = {bare(identity): label.lower() for identity, label in splits.labels.items()}
    for identity, label in zip(ids, frame["label"], strict=True):
        theirs = published.get(identity, label)
        if label is not None and theirs != label and theirs in _SENTIMENTS:
            report.notes.append(Problem("another published label", f"published as {theirs}, here {label}", identity))


def _read_text(index: FileIndex, identity: str, line: int, raw: RawFiles) -> str | None:
    path, report = index.find(identity, (".txt",)), raw.report
    if path is None:
        report.problems.append(Problem("missing text", "no such file", identity, line, f"{identity}.txt"))
        return None
    if (trouble := raw.trouble(path, _MOST_BYTES)) is not None:
        report.problems.append(Problem("unreadable text", trouble, identity, line, path.name))
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        report.problems.append(Problem("unreadable text", str(error.strerror), identity, line, path.name))
        return None
    try:
        # Saved on a Chinese Windows; some are valid UTF-8 by chance, so that is not tried first.
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            text = data.decode("gb18030", errors="replace")
            reason = f"byte {error.start} is neither GB18030 nor UTF-8; it became U+FFFD"
            report.notes.append(Problem("odd bytes in text", reason, identity, line, path.name))
    return clean_text(text.strip())


def _find_image(index: FileIndex, identity: str, line: int, raw: RawFiles) -> str | None:
    wanted = f"{identity}.jpg"
    path = index.find(identity, IMAGE_SUFFIXES, prefer=wanted)
    if path is None:
        raw.report.problems.append(Problem("missing image", "no such file", identity, line, wanted))
        return None
    return raw.image(path, wanted, identity, line)


def draw_balanced(frame: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Sample at most `most` posts of each label at random, keeping their order; those without one are left out."""
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    for label in sorted({label for label in frame["label"] if label is not None}):
        places = np.flatnonzero(frame["label"].to_numpy() == label)
        kept.extend(rng.permutation(places)[:most].tolist())
    return frame.iloc[sorted(kept)].reset_index(drop=True)
