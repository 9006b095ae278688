"""Tables of results as plain cells, and the same cells as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cotune.benchmark.compare import Summary
from cotune.benchmark.folds import Folds
from cotune.benchmark.plan import ANCHOR
from cotune.benchmark.results import Results
from cotune.errors import ConfigError, did_you_mean, listed
from cotune.files import write_text
from cotune.metrics import Estimate
from cotune.report.numbers import SCORE_TITLES, p_value, plural

PAPER = {
    "mvsa": {"svm": 0.6416, "image": 0.6383, "text": 0.8011, "concat": 0.7905, "clip": 0.8174, "joint": 0.8131},
    "hateful-memes": {
        "svm": 0.5493, "image": 0.5359, "text": 0.7298, "concat": 0.6968, "clip": 0.7431, "joint": 0.7461
    },
}  # fmt: skip
FILE, FORMS = "results.md", ("csv", "tex")
PAPER_NAMES = {"mvsa": "MVSA-1.2k", "hateful-memes": "Hateful Memes"}


@dataclass
class Table:
    """A table ready to be written: a title, a head, rows of words, and notes below."""

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"## {self.title}", "", _pipe(self.head), _pipe(["---"] + ["---:"] * (len(self.head) - 1))]
        lines += [_pipe([cell.replace("|", "\\|") for cell in row]) for row in self.rows]
        lines += ["", *(f"{note}  " for note in self.notes)] if self.notes else []
        return "\n".join(line.rstrip() if not line.endswith(".  ") else line for line in lines) + "\n"

    def csv(self) -> str:
        """Return the table as CSV."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([self.head, *self.rows])
        return buffer.getvalue()

    def latex(self) -> str:
        """Return the table as LaTeX for the package booktabs."""
        lines = [
            "\\begin{table}", "\\centering", f"\\caption{{{_tex(self.title)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}", "\\toprule",
            " & ".join(map(_tex, self.head)) + " \\\\", "\\midrule",
        ]  # fmt: skip
        lines += [" & ".join(map(_tex, row)) + " \\\\" for row in self.rows]
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"\\\\[2pt]{{\\footnotesize {_tex(note)}}}" for note in self.notes]
        return "\n".join([*lines, "\\end{table}"]) + "\n"


def save_tables(out: Path, tables: Sequence[Table], forms: Sequence[str] = ()) -> None:
    """Write all tables into ``results.md``, and each into a file of its own in other forms.

    Files of single tables that are there already are brought up to date, those in Markdown of older versions
    removed.

    Parameters
    ----------
    out : Path
        The results folder.
    tables : sequence of Table
        What to write.
    forms : sequence of {"csv", "tex"}
        The other forms.
    """
    write_text(out / FILE, "\n".join(["# Benchmark results\n", *(table.markdown() for table in tables)]))
    for table in tables:
        for form, make in (("csv", table.csv), ("tex", table.latex)):
            path = out / f"{table.name}.{form}"
            if form in forms or path.is_file():
                write_text(path, make())
        (out / f"{table.name}.md").unlink(missing_ok=True)


def parse_forms(words: Sequence[str]) -> tuple[str, ...]:
    """Check the forms of tables that are asked for.

    Raises
    ------
    ConfigError
        If one is unknown.
    """
    for word in words:
        if word not in FORMS:
            raise ConfigError(f"--tables-format takes {' and '.join(FORMS)}, not {word!r}{did_you_mean(word, FORMS)}")
    return tuple(words)


def table_1(results: Results, summaries: Sequence[Summary], *, paper: str | None = None) -> Table:
    """Return Table 1: every row's scores, and its tests against joint fine-tuning.

    Parameters
    ----------
    results : Results
        What was measured.
    summaries : sequence of Summary
        What :func:`~cotune.benchmark.compare.summarise` made of it.
    paper : {"mvsa", "hateful-memes"}, optional
        Put the paper's figures beside.
    """
    theirs = _paper(paper)
    several = len({(s.key.text, s.key.image) for s in summaries if s.key.text and s.key.image}) > 1
    task = results.folds.task
    main, *others = (SCORE_TITLES.get(name, name) for name in results.folds.table_scores)
    main = task.main_title
    head = ["method", f"{main}, mean ± std of folds", f"{main}, all posts [95 %]", *others,
            "joint − row [95 %]", "p (Holm)", "p over folds (Holm)"]  # fmt: skip
    if theirs:
        head.insert(1, f"paper's AUC, {PAPER_NAMES[paper or '']}")
    rows = []
    for summary in summaries:
        key = summary.key
        cells = [f"{key.title} ({key.encoders})" if several else key.title, mean_cell(summary)]
        cells += [interval_cell(summary.scores.get(task.main_score))]
        cells += [_plain(summary.scores.get(name)) for name in results.folds.table_scores[1:]]
        cells += _test_cells(summary)
        rows.append(_with_paper(cells, theirs, key.method))
    for name, reason in results.not_run().items():
        from cotune.benchmark.methods import METHODS

        title = METHODS[name].title if name in METHODS else name
        rows.append(_with_paper([title, reason, *[""] * (len(others) + 4)], theirs, name))
    return Table("table1", f"Table 1. {main} by method", head, rows, _notes(results, summaries, paper))


def table_emap(results: Results, summaries: Sequence[Summary]) -> Table | None:
    """Return the table of additive projections by fold, or None if there are none."""
    with_it = [s for s in summaries if s.emap is not None]
    if not with_it:
        return None
    main = results.folds.task.main_title
    one, other = _two_fields(results)
    head = [
        "method",
        main,
        f"{main}, additive",
        "lost, all posts [95 %]",
        *(f"fold {i + 1}" for i in range(with_it[0].folds)),
    ]
    rows = []
    for summary in with_it:
        assert summary.emap is not None
        before, after = summary.emap.mean(axis=0)
        folds = [f"{low:.4f} → {high:.4f}" for low, high in summary.emap]
        rows.append(
            [
                _name(summary, with_it),
                f"{before:.4f}",
                f"{after:.4f}",
                interval_cell(summary.emap_loss, sign=True),
                *folds,
            ]
        )
    notes = [
        f"The model's logits projected onto functions of the form f({one}) + g({other}) (EMAP, Hessel & Lee 2020). "
        "What is lost is owed to cross-modal interaction; first two columns are means over folds."
    ]
    return Table(
        "emap",
        f"Does the model use {one}-{other} interaction? {main} before and after the additive projection",
        head,
        rows,
        notes,
    )


def _two_fields(results: Results) -> tuple[str, str]:
    """Return the names of the two fields that a projection separates."""
    given = results.settings["fit"].get("fields") or []
    one, other, *_ = [*(str(field["name"]) for field in given), "text", "image"]
    return one, other


def number(value: float) -> str:
    """Return a count of parameters as people write it."""
    if math.isnan(value):
        return "—"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.{0 if value >= 100 * size else 1}f}{unit}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """Return a duration as people write it."""
    if math.isnan(value):
        return "—"
    if value < 99.5:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5940 else f"{value / 3600:.1f} h"


def p_words(p: float) -> str:
    """Return a p-value as it stands in a sentence."""
    words = p_value(p)
    return "p not defined" if math.isnan(p) else f"p {words}" if words.startswith("<") else f"p = {words}"


def _notes(results: Results, summaries: Sequence[Summary], paper: str | None) -> list[str]:
    settings, folds = results.settings, results.folds
    once = all(s.folds_done == s.folds for s in summaries)
    notes = [
        f"{plural(len(folds.ids), 'post')}, {_what(folds)}, "
        f"{plural(settings['folds'], settings['protocol'] + ' fold')}, every post scored "
        f"{'once' if once else 'at most once'} out of fold. "
        f"Encoders tuned: {settings['fit']['tune']}."
    ]
    if folds.task.target_type == "multiclass" and len(folds.classes) > 2:
        notes[0] += " AUC is the macro mean of one class against the rest."
    if results.duplicated is not None:
        have = "has" if results.duplicated == 1 else "have"
        notes.append(
            f"{plural(results.duplicated, 'post')} of the published test parts {have} a "
            f"near-duplicate in the same fold's training part."
        )
    left = [f"{n:,} with {reason}" for reason, n in folds.left_out.items() if n]
    if left:
        notes.append(f"Left out: {', '.join(left)}.")
    part = [f"{_name(s, summaries)} ({s.folds_done} of {s.folds})" for s in summaries if s.folds_done < s.folds]
    if part:
        notes.append(f"Not all folds are done: {', '.join(part)}.")
    tests = {s.test.name for s in summaries if s.test}
    if tests:
        n_tests = sum(s.test is not None for s in summaries)
        notes.append(
            f"p: {' and '.join(sorted(tests))} over posts; p over folds: corrected resampled t-test (Nadeau & Bengio "
            f"2003); both two-sided, with Holm's correction for {plural(n_tests, 'comparison')}."
        )
    if paper and ANCHOR in {s.key.method for s in summaries}:
        notes.append(
            "The paper's figures are for other encoders (DistilBERT, ResNet-50, CLIP) and other folds; its released "
            "code has the head of the row “Joint, the paper's released head”."
        )
    if results.failures:
        notes.append(f"{plural(len(results.failures), 'cell')} failed.")
    return notes


def _what(folds: Folds) -> str:
    if folds.task.target_type == "multiclass":
        return f"{len(folds.classes)} classes ({listed(folds.classes, most=30)})"
    return folds.task.describe()


def _paper(paper: str | None) -> dict[str, float]:
    if paper is None:
        return {}
    if paper not in PAPER:
        raise ConfigError(f"--paper is {' or '.join(PAPER)}, not {paper!r}{did_you_mean(paper, PAPER)}")
    return PAPER[paper]


def _with_paper(cells: list[str], theirs: dict[str, float], method: str) -> list[str]:
    if theirs:
        cells.insert(1, f"{theirs[method]:.4f}" if method in theirs else "—")
    return cells


def repeated(summary: Summary, others: Sequence[Summary]) -> bool:
    """Return whether the row's method has several rows, so that its encoders must be named."""
    return sum(other.key.method == summary.key.method for other in others) > 1


def _name(summary: Summary, others: Sequence[Summary]) -> str:
    return f"{summary.key.title} ({summary.key.encoders})" if repeated(summary, others) else summary.key.title


def mean_cell(summary: Summary) -> str:
    """Return mean and standard deviation over folds, with the number of folds where some are missing."""
    if math.isnan(summary.auc_mean):
        return "—"
    spread = "" if math.isnan(summary.auc_std) else f" ± {summary.auc_std:.4f}"
    part = "" if summary.folds_done == summary.folds else f" ({summary.folds_done} of {summary.folds} folds)"
    return f"{summary.auc_mean:.4f}{spread}{part}"


def interval_cell(estimate: Estimate | None, *, sign: bool = False) -> str:
    """Return a value with its interval."""
    if estimate is None:
        return "—"
    form = "+.4f" if sign else ".4f"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]".replace("-", "−")


def _plain(estimate: Estimate | None) -> str:
    return "—" if estimate is None else f"{estimate.value:.4f}"


def _test_cells(summary: Summary) -> list[str]:
    test = summary.test
    if test is None:
        return ["—", "—", "—"]
    gap = interval_cell(Estimate(test.difference, test.low, test.high), sign=True)
    return [gap, f"{p_value(test.p)} ({p_value(test.p_holm)})", f"{p_value(test.fold_p)} ({p_value(test.fold_p_holm)})"]


def _pipe(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_TEX = {"&": "\\&", "%": "\\%", "#": "\\#", "_": "\\_", "$": "\\$", "{": "\\{", "}": "\\}", "±": "$\\pm$",
        "−": "$-$", "—": "---", "<": "$<$", ">": "$>$", "→": "$\\to$", "“": "``", "”": "''",
        "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "×": "$\\times$"}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
