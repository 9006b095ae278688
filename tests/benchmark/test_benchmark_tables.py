from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench_tiny import forget, made_up
from cotune.benchmark import Plan, predictions, read_results, summarise
from cotune.benchmark.compare import corrected_t_test
from cotune.benchmark.curves import grid_methods, learning_curves, pareto, table_2, table_curves, table_grid
from cotune.benchmark.methods import METHODS as RECIPES
from cotune.benchmark.tables import PAPER, Table, number, p_value, parse_forms, seconds, table_1, table_emap
from cotune.errors import ConfigError, RunError
from cotune.metrics import delong_test, paired_bootstrap_auc, roc_auc
from cotune.report.benchmark_figures import bars
from cotune.report.benchmark_report import write_all
from cotune.report.interval_charts import interval_chart
from cotune.report.pages import split_cell

PAIRS = (("hf:a/t", "timm:i"),)
METHODS = ("svm", "text", "concat", "joint", "ensemble", "clip")
SKILL = {"svm": 0.6, "text": 1.0, "concat": 1.4, "joint": 2.5}


@pytest.fixture
def plan() -> Plan:
    return Plan(methods=METHODS, pairs=PAIRS, folds=4)


def test_figures_come_from_the_saved_predictions(plan: Plan, tmp_path: Path) -> None:
    folds = made_up(tmp_path, plan, SKILL)
    results = read_results(tmp_path)
    by_method = {s.key.method: s for s in summarise(results, n_bootstrap=200)}
    assert list(by_method) == ["svm", "image", "text", "concat", "joint", "ensemble"]
    for key, row in results.rows.items():
        summary = by_method[key.method]
        aucs = [roc_auc(folds.targets[folds.test(f)], row.proba[0][folds.test(f)]) for f in range(4)]
        assert summary.auc_mean == pytest.approx(np.mean(aucs))
        assert summary.auc_std == pytest.approx(np.std(aucs, ddof=1))
        assert summary.scores["auc"].value == pytest.approx(roc_auc(folds.targets, row.proba[0]))
        assert summary.scores["auc"].low < summary.scores["auc"].value < summary.scores["auc"].high
    assert by_method["joint"].test is None
    test = by_method["svm"].test
    assert test is not None
    assert test.difference > 0
    assert test.p < 0.05
    assert test.p_holm >= test.p
    assert test.fold_p_holm >= test.fold_p


def test_the_paired_bootstrap_is_that_of_the_metrics(plan: Plan, tmp_path: Path) -> None:
    folds = made_up(tmp_path, plan, SKILL)
    results = read_results(tmp_path)
    rows = {key.method: row.proba[0] for key, row in results.rows.items()}
    found = {s.key.method: s.test for s in summarise(results, n_bootstrap=300, seed=3)}["concat"]
    assert found is not None
    expected = paired_bootstrap_auc(folds.targets, rows["joint"], rows["concat"], 300, 3)
    assert found.name == "paired bootstrap"
    assert (found.difference, found.low, found.high, found.p) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p_value)
    )


def test_two_classes_are_compared_by_delong(plan: Plan, tmp_path: Path) -> None:
    folds = made_up(tmp_path, plan, SKILL, classes=2)
    results = read_results(tmp_path)
    rows = {key.method: row.proba[0] for key, row in results.rows.items()}
    found = {s.key.method: s.test for s in summarise(results, n_bootstrap=50)}["text"]
    assert found is not None
    assert found.name == "DeLong"
    assert found.p == pytest.approx(delong_test(folds.targets, rows["joint"], rows["text"]).p_value)


def test_several_seeds_are_averaged_over_scores(plan: Plan, tmp_path: Path) -> None:
    folds = made_up(tmp_path, replace(plan, seeds=(1, 2), methods=("joint", "text")), SKILL, classes=2)
    results = read_results(tmp_path)
    summaries = summarise(results, n_bootstrap=50)
    for s in summaries:
        proba = results.rows[s.key].proba
        assert proba.shape[0] == 2
        assert s.scores["auc"].value == pytest.approx(np.mean([roc_auc(folds.targets, table) for table in proba]))
    test = summaries[0].test
    assert test is not None
    assert test.name == "paired bootstrap"


def test_the_corrected_t_test_is_wider_than_the_plain_one() -> None:
    from scipy.stats import ttest_1samp

    gaps = np.asarray([0.02, 0.01, 0.03, -0.01, 0.02])
    assert corrected_t_test(gaps, 0.0) == pytest.approx(ttest_1samp(gaps, 0).pvalue)
    assert corrected_t_test(gaps, 0.25) > corrected_t_test(gaps, 0.0)
    assert corrected_t_test(np.zeros(4), 0.25) == 1.0
    assert corrected_t_test(np.full(4, 0.1), 0.25) == 0.0
    assert math.isnan(corrected_t_test(np.asarray([0.1, np.nan]), 0.25))
    assert math.isnan(corrected_t_test(np.asarray([0.1]), 0.25))


def test_half_finished_rows_say_so(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, plan, SKILL)
    forget(tmp_path, *(cell for cell in plan.cells() if cell.method == "text" and cell.fold > 1))
    results = read_results(tmp_path)
    summaries = summarise(results, n_bootstrap=20)
    text = next(s for s in summaries if s.key.method == "text")
    assert (text.folds_done, text.folds, text.scores, text.test) == (2, 4, {}, None)
    table = table_1(results, summaries)
    assert "(2 of 4 folds)" in table.markdown()
    assert "Not all folds are done: Text encoder alone (2 of 4)." in table.markdown()


def test_table_1_in_three_forms(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, plan, SKILL)
    results = read_results(tmp_path)
    table = table_1(results, summarise(results, n_bootstrap=50), paper="mvsa")
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[0][1] == "paper's AUC, MVSA-1.2k"
    by_title = {row[0]: row for row in rows[1:]}
    assert by_title["Joint fine-tuning"][1] == "0.8131"
    assert by_title["Dual encoder (CLIP)"][1:3] == ["0.8174", "not run: needs --clip MODEL"]
    assert by_title["Mean of text and image models"][1] == "—"
    assert len({len(row) for row in rows}) == 1
    latex = table.latex()
    assert latex.count("\\\\") >= len(rows)
    assert "\\toprule" in latex
    assert "95 \\%" in latex
    markdown = table.markdown()
    assert "Left out: 2 with no label." in markdown
    assert "Nadeau & Bengio" in markdown
    assert {len(line.split(" | ")) for line in markdown.splitlines() if line.startswith("|")} == {len(rows[0])}


def test_the_papers_figures() -> None:
    assert PAPER["hateful-memes"]["joint"] == 0.7461
    assert PAPER["mvsa"]["svm"] == 0.6416


def test_an_unknown_paper(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, plan, SKILL)
    results = read_results(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'mvsa'"):
        table_1(results, [], paper="mvsb")


def test_table_2_is_exact(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, plan, SKILL)
    results = read_results(tmp_path)
    table = table_2(results, summarise(results, n_bootstrap=0))
    theirs = {row[0]: row for row in table.rows if row[0].startswith("The paper's")}
    assert [row[2] for row in theirs.values()] == ["23.5M", "66.4M", "90.0M", "152M", "90.3M"]
    assert [row[4] for row in theirs.values()] == ["23.5M", "66.4M", "90.0M", "152M", "90.3M"]
    assert next(row for row in table.rows if row[0].startswith("Joint fine-tuning"))[1] == "5,000"


def test_emap_table(plan: Plan, tmp_path: Path) -> None:
    folds = made_up(tmp_path, plan, SKILL)
    results = read_results(tmp_path)
    summaries = summarise(results, n_bootstrap=50)
    joint = next(s for s in summaries if s.key.method == "joint")
    assert joint.emap is not None
    assert joint.emap_loss is not None
    row = results.rows[joint.key]
    assert row.emap is not None
    assert joint.emap_loss.value == pytest.approx(
        roc_auc(folds.targets, row.proba[0]) - roc_auc(folds.targets, row.emap[0]), abs=1e-6
    )
    table = table_emap(results, summaries)
    assert table is not None
    assert table.head[4:] == ["fold 1", "fold 2", "fold 3", "fold 4"]
    assert table_emap(results, [s for s in summaries if s.key.method != "joint"]) is None


def test_emap_of_seeds_that_know_it_for_other_posts(plan: Plan, tmp_path: Path) -> None:
    folds = made_up(tmp_path, replace(plan, seeds=(1, 2)), SKILL)
    results = read_results(tmp_path)
    row = next(row for key, row in results.rows.items() if key.method == "joint")
    assert row.emap is not None
    row.emap[0, ::7] = np.nan
    row.emap[1, ::5] = np.nan
    assert np.isfinite(row.fold_aucs(folds, emap=True)).all()


def test_learning_curves(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, replace(plan, shots=(4, 16, None), draws=3), SKILL)
    results = read_results(tmp_path)
    curves = learning_curves(results)
    joint = next(points for key, points in curves.items() if key.method == "joint")
    assert [point.shots for point in joint] == [4, 16, None]
    assert joint[0].draws == 3
    assert joint[0].mean < joint[2].mean
    key = next(key for key in curves if key.method == "joint")
    draws = [results.shots[key, 4, d].mean() for d in range(3)]
    assert joint[0].std == pytest.approx(np.std(draws, ddof=1))
    table = table_curves(results)
    assert table is not None
    assert table.head[1:] == ["4", "16", "all"]


def test_an_unfinished_learning_curve_keeps_to_the_folds_that_are_whole(plan: Plan, tmp_path: Path) -> None:
    plan = replace(plan, shots=(4, None), draws=2)
    made_up(tmp_path, plan, SKILL)
    whole = read_results(tmp_path)
    gone = [cell for cell in plan.cells() if cell.fold > 0 and (cell.shots == 4 or cell.method == "joint")]
    forget(tmp_path, *gone)
    results = read_results(tmp_path)
    key = next(key for key in results.rows if key.method == "joint")
    found = {point.shots: point.mean for point in learning_curves(results)[key]}
    assert found[4] == pytest.approx(np.mean([whole.shots[key, 4, draw][0] for draw in range(2)]))
    assert found[None] == pytest.approx(whole.rows[key].fold_aucs(whole.folds)[0])
    table = table_curves(results)
    assert table is not None
    assert f"tested on fold 1 of {plan.folds}" in table.notes[-1]
    summaries = summarise(results, n_bootstrap=0)
    assert "every post scored at most once out of fold" in table_1(results, summaries).notes[0]


def test_no_learning_curves(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, plan, SKILL)
    assert table_curves(read_results(tmp_path)) is None


def test_grids_and_their_front(tmp_path: Path) -> None:
    pairs = tuple((f"hf:a/{t}", f"timm:{i}") for t in ("small", "large") for i in ("x", "y"))
    plan = Plan(methods=("joint", "text"), pairs=pairs, folds=2)
    made_up(tmp_path, plan, SKILL)
    summaries = summarise(read_results(tmp_path), n_bootstrap=0)
    assert grid_methods(summaries) == ["joint"]
    table = table_grid(summaries, "joint")
    assert {tuple(row[:2]) for row in table.rows} == {(t, i) for t in ("small", "large") for i in ("x", "y")}
    mine = [s for s in summaries if s.key.method == "joint"]
    for i, s in enumerate(mine):
        s.auc_mean, s.parameters, s.seconds = [(0.9, 10, 10), (0.9, 10, 11), (0.8, 5, 20), (0.7, 20, 20)][i]
    assert pareto(mine) == {mine[0].key, mine[2].key}


def test_unknown_figures_of_a_grid_come_last_and_lead_nowhere(tmp_path: Path) -> None:
    pairs = tuple((f"hf:a/{t}", f"timm:{i}") for t in ("small", "large") for i in ("x", "y"))
    made_up(tmp_path, Plan(methods=("joint",), pairs=pairs, folds=2), SKILL)
    mine = summarise(read_results(tmp_path), n_bootstrap=0)
    nan = math.nan
    for i, s in enumerate(mine):
        s.auc_mean, s.parameters, s.seconds = [(0.7, 10, 10), (nan, 1, 1), (0.6, nan, 20), (0.9, 20, 20)][i]
    assert [row[2].split()[0] for row in table_grid(mine, "joint").rows][:3] == ["0.9000", "0.7000", "0.6000"]
    assert pareto(mine) == {mine[0].key, mine[3].key}, "a row of unknown size is beaten by a smaller, better one"
    blank = [replace(bar, value=nan, low=nan, high=nan, dots=(), other=None) for bar in bars(mine, None)]
    assert interval_chart(blank, title="AUC") == ""


def test_bars_of_a_grid_tell_method_and_encoders(tmp_path: Path) -> None:
    pairs = tuple((f"hf:a/all-mpnet-base-v{i}", "timm:efficientnet_lite0") for i in (1, 2))
    made_up(tmp_path, Plan(methods=("joint", "concat", "text"), pairs=pairs[:1], folds=2), SKILL)
    alone = bars(summarise(read_results(tmp_path), n_bootstrap=0), None)
    assert {(bar.name, bar.note) for bar in alone} == {
        (RECIPES[name].title, "") for name in ("joint", "concat", "text")
    }
    made_up(tmp_path / "grid", Plan(methods=("joint", "probe"), pairs=pairs, folds=2), SKILL)
    several = bars(summarise(read_results(tmp_path / "grid"), n_bootstrap=0), None)
    assert {(bar.name, bar.note) for bar in several} == {
        (RECIPES[name].title, f"all-mpnet-base-v{i} + efficientnet_lite0")
        for name in ("joint", "probe")
        for i in (1, 2)
    }
    page = str(interval_chart(several, title="AUC"))
    assert "…" not in page
    assert page.count("all-mpnet-base-v2 + efficientnet_lite0</text>") == 2


@pytest.mark.parametrize(
    ("value", "said"), [(23_508_032, "23.5M"), (151_600_004, "152M"), (33_555, "33.6k"), (73, "73"), (math.nan, "—")]
)
def test_numbers(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(("value", "said"), [(1.24, "1.2 s"), (45, "45 s"), (300, "5.0 min"), (7200, "2.0 h")])
def test_seconds(value: float, said: str) -> None:
    assert seconds(value) == said


@pytest.mark.parametrize(("p", "said"), [(0.0004, "< .001"), (0.03, ".030"), (1.0, "1"), (math.nan, "—")])
def test_p_values(p: float, said: str) -> None:
    assert p_value(p) == said


def test_markup_characters_in_names_do_no_harm() -> None:
    table = Table("t", "a_b & c", ["x|y"], [["50% | {#}"]], ["n_1"])
    assert "\\|" in table.markdown()
    assert "50\\% | \\{\\#\\}" in table.latex()
    assert "a\\_b \\& c" in table.latex()


def test_a_folder_without_results(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(RunError, match="no results folder"):
        read_results(tmp_path)
    made_up(tmp_path, plan, SKILL)
    predictions.write(tmp_path, [])
    with pytest.raises(RunError, match="no finished cell"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("0.9149 ± 0.0235", ("0.9149", "± 0.0235")),
        ("−0.11 [−0.17, −0.06]", ("−0.11", "[−0.17, −0.06]")),
        (".010 (.070)", (".010", "(.070)")),
        ("< .001 (.007)", ("< .001", "(.007)")),
        ("not run: needs --clip MODEL", ("not run: needs --clip MODEL", "")),
        ("Joint (a + b)", ("Joint (a + b)", "")),
    ],
)
def test_cells_on_two_lines(words: str, parts: tuple[str, str]) -> None:
    assert split_cell(words) == parts


def test_everything_is_written(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, replace(plan, shots=(4, None), draws=2), SKILL)
    (tmp_path / "table1.md").write_text("of an older version")
    written = write_all(tmp_path, paper="mvsa", n_bootstrap=50)
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.suffix in (".md", ".csv", ".tex")] == [
        "results.md"
    ]
    page = (tmp_path / "results.md").read_text()
    for table in written.tables:
        assert table.markdown() in page
    assert [table.name for table in written.tables] == ["table1", "table2", "emap", "learning_curve"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["method"] for row in summary["rows"]] == [s["method"] for s in written.summary["rows"]]
    assert summary["not_run"] == {"clip": "not run: needs --clip MODEL"}
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    for words in (
        "Does joint fine-tuning pay?",
        "Does the model use text-image interaction?",
        "ROC curves",
        "What it costs",
        "fold 4",
    ):
        assert words in page


def test_other_forms_of_tables_are_written_on_request_and_kept_up_to_date(plan: Plan, tmp_path: Path) -> None:
    made_up(tmp_path, plan, SKILL)
    write_all(tmp_path, n_bootstrap=20, forms=parse_forms(["csv"]))
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["emap.csv", "table1.csv", "table2.csv"]
    before = (tmp_path / "table1.csv").read_text()
    assert not list(tmp_path.glob("*.tex"))
    (tmp_path / "table2.csv").unlink()
    write_all(tmp_path, n_bootstrap=0)
    assert (tmp_path / "table1.csv").read_text() != before
    assert not (tmp_path / "table2.csv").exists()
    with pytest.raises(ConfigError, match="--tables-format takes csv and tex, not 'latex'"):
        parse_forms(["latex"])


def test_a_report_of_a_grid_and_of_hardly_anything(tmp_path: Path) -> None:
    pairs = tuple((f"hf:a/{t}", f"timm:{i}<b>") for t in ("small", "large") for i in ("x", "y"))
    plan = Plan(methods=("joint",), pairs=pairs, folds=2)
    made_up(tmp_path / "grid", plan, SKILL)
    write_all(tmp_path / "grid", n_bootstrap=0)
    page = (tmp_path / "grid" / "report.html").read_text()
    assert "Heat map" in page
    assert "x&lt;b&gt;" in page
    assert "x<b>" not in page
    forget(tmp_path / "grid", plan.cells()[0])
    write_all(tmp_path / "grid", n_bootstrap=10)
    shots = Plan(methods=("joint",), pairs=PAIRS, folds=2, shots=(4,), draws=1)
    made_up(tmp_path / "shots", shots, SKILL)
    assert [table.name for table in write_all(tmp_path / "shots", n_bootstrap=0).tables] == ["learning_curve"]
    one = Plan(methods=("text",), pairs=PAIRS, folds=2)
    made_up(tmp_path / "one", one, SKILL)
    assert write_all(tmp_path / "one", n_bootstrap=10).summary["rows"][0]["against_joint"] is None
