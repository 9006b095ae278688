"""The scripts that measure what labels of fields gain: folds, cells, tables."""

from __future__ import annotations

import math
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from runs import tiny_settings
from tiny import Zoo

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from label_cells import Cell, CellFolder, Lab, cut, read_labelled, setup, train  # noqa: E402
from label_tables import first_of  # noqa: E402

from cotune.benchmark.folds import Folds  # noqa: E402
from cotune.settings import FitConfig  # noqa: E402

FEELINGS = ("negative", "neutral", "positive")


def made_up(folder: Path, n: int = 180) -> Path:
    """Write a table of posts with labels of fields, a class by the rule of Xu and Mao, and one image each."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(n):
        text, image = random.choice(FEELINGS, 2)
        whole = text if image in (text, "neutral") else image if text == "neutral" else ""
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i}.png")
        rows.append((f"p{i}", f"{text} words number {i}", f"{i}.png", whole, text, image))
    table = folder / "posts.csv"
    columns = ["id", "text", "image", "label", "label:text", "label:image"]
    pd.DataFrame(rows, columns=columns).to_csv(table, index=False)
    return table


@pytest.fixture(scope="module")
def cut_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("labels")
    table = made_up(folder)
    read_labelled(table, folder / "cells" / "folds.csv", 5)
    return table, folder / "cells"


def test_folds_of_posts_with_a_class_are_those_of_the_kept_records() -> None:
    ours = pd.read_csv(BENCHMARKS / "results" / "labels" / "folds.csv", dtype={"id": str}).set_index("id")
    kept = Folds.load(BENCHMARKS / "results" / "main" / "folds.parquet")
    assert len(ours) == len(kept.ids) + 358
    assert ours.loc[kept.ids.astype(str), "fold"].tolist() == kept.fold.tolist()
    without = ours.drop(index=kept.ids.astype(str))
    assert np.bincount(without["fold"], minlength=10).min() > 20


def test_every_post_is_scored_once_and_conflicts_teach_where_nothing_like_them_is_scored(
    cut_table: tuple[Path, Path],
) -> None:
    found = read_labelled(cut_table[0], cut_table[1] / "folds.csv")
    assert found.n_folds == 5
    assert (found.y < 0).sum() > 20
    assert sorted(np.concatenate([found.test(fold) for fold in range(5)])) == list(range(180))
    for fold in range(5):
        plain, all_of_them = (found.train(fold, conflicts=conflicts) for conflicts in (False, True))
        assert set(plain) < set(all_of_them)
        assert (found.y[plain] >= 0).all()
        assert not set(all_of_them) & set(found.test(fold))
    few = found.train(0, conflicts=True, shots=7, draw=1)
    assert np.bincount(found.y[few]).tolist() == [7, 7, 7]


def test_a_conflict_goes_where_its_near_duplicates_are(tmp_path: Path) -> None:
    table = made_up(tmp_path)
    posts = pd.read_csv(table, keep_default_na=False)
    conflict = int(np.flatnonzero(posts["label"] == "")[0])
    twin = int(np.flatnonzero(posts["label"] != "")[3])
    posts.loc[conflict, ["text", "image"]] = posts.loc[twin, ["text", "image"]]
    posts.to_csv(table, index=False)
    found = read_labelled(table, tmp_path / "folds.csv", 5)
    assert found.fold[conflict] == found.fold[twin]
    assert found.groups[conflict] == found.groups[twin]
    fold, groups = cut(found.posts, 5)
    assert fold.tolist() == found.fold.tolist()
    assert groups.tolist() == found.groups.tolist()


def test_the_order_of_the_folds_counts_and_folds_of_other_posts_are_refused(
    cut_table: tuple[Path, Path], tmp_path: Path
) -> None:
    posts, kept = pd.read_csv(cut_table[0], keep_default_na=False), cut_table[1] / "folds.csv"
    posts.iloc[::-1].to_csv(tmp_path / "posts.csv", index=False)
    turned, found = read_labelled(tmp_path / "posts.csv", kept), read_labelled(cut_table[0], kept)
    assert turned.posts["id"].tolist() == found.posts["id"].tolist()
    assert turned.y.tolist() == found.y.tolist()
    posts.iloc[1:].to_csv(tmp_path / "posts.csv", index=False)
    with pytest.raises(SystemExit, match="other posts"):
        read_labelled(tmp_path / "posts.csv", cut_table[1] / "folds.csv")


def test_a_cell_is_trained_and_kept_with_what_each_field_says_alone(
    cut_table: tuple[Path, Path], zoo: Zoo, tmp_path: Path
) -> None:
    table, out = cut_table
    shutil.copytree(out, tmp_path / "cells")
    settings = tiny_settings(zoo, tmp_path / "cache", tune="frozen", probe_epochs=1)
    lab = setup(table, tmp_path / "cells", settings, math.inf)
    for row, width in (("plain", 3), ("few-annotated", 9)):
        cell = Cell(row, 2, shots=None if row == "plain" else 6)
        lab.folder.keep(cell, train(lab, cell)[0])
        kept = lab.folder.load(cell)
        assert kept["rows"].tolist() == lab.labelled.test(2).tolist()
        assert kept["pull"].shape == kept["rows"].shape
        assert kept["all"].shape == (len(kept["rows"]), width)
        assert all(np.ptp(kept[view], axis=0).min() > 0 for view in ("text", "image"))
        assert not np.array_equal(kept["text"], kept["all"])
    with pytest.raises(TimeoutError):
        train(setup(table, tmp_path / "cells", settings, 0), Cell("plain", 1))


def test_a_student_learns_from_members_that_left_its_posts_out(
    cut_table: tuple[Path, Path], zoo: Zoo, tmp_path: Path
) -> None:
    table, out = cut_table
    shutil.copytree(out, tmp_path / "cells")
    lab = setup(
        table, tmp_path / "cells", tiny_settings(zoo, tmp_path / "cache", tune="frozen", probe_epochs=1), math.inf
    )
    student = Cell("distilled-annotated", 1, members=2)
    assert [cell.member for cell in student.needs] == [0, 1]
    for cell in (*student.needs, student):
        lab.folder.keep(cell, train(lab, cell)[0])
    apart = [lab.folder.load(cell)["apart"] for cell in student.needs]
    assert sorted(np.concatenate(apart)) == lab.labelled.train(1, conflicts=True).tolist()
    assert lab.folder.load(student)["all"].shape == (len(lab.labelled.test(1)), 9)


def test_a_soup(cut_table: tuple[Path, Path], zoo: Zoo, tmp_path: Path) -> None:
    table, out = cut_table
    shutil.copytree(out, tmp_path / "cells")
    settings = tiny_settings(zoo, tmp_path / "cache", tune="top", epochs=1, probe_epochs=1)
    lab = setup(table, tmp_path / "cells", settings, math.inf)
    for row in ("soup-plain", "soup-annotated"):
        found, _ = train(lab, Cell(row, 1, members=2))
        assert len(found["all"]) == len(lab.labelled.test(1))


def with_skill(lab: Lab, cell: Cell, skill: float) -> dict[str, Any]:
    """Return made-up outputs that know the labels of fields a little."""
    found, random = lab.labelled, np.random.default_rng([cell.fold, cell.seed, int(cell.annotated)])
    rows, task = found.test(cell.fold), lab.task(cell.annotated)
    told = {
        name: np.eye(3)[found.marks[name][rows]] * skill + random.normal(size=(len(rows), 3)) for name in found.marks
    }
    nothing = np.zeros((len(rows), 3))
    outputs = {}
    for view in ("all", "text", "image"):
        text, image = (told[name] if view in ("all", name) else nothing for name in ("text", "image"))
        outputs[view] = text + image
        if cell.annotated:
            text_of, image_of = task.cells.label_of  # type: ignore[attr-defined]
            outputs[view] = text[:, text_of] + image[:, image_of]
    return {"rows": rows, "pull": random.random(len(rows)), **outputs}


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, *words: object) -> str:
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    return capsys.readouterr().out


def rows_of(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")
    ]


def test_tables_of_what_is_finished(
    cut_table: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = cut_table
    lab = Lab(read_labelled(table, out / "folds.csv"), FitConfig(), CellFolder(out))
    for fold in range(5):
        for row, skill in (("plain", 0.7), ("annotated", 2.0)):
            cells = [Cell(row, fold, seed) for seed in (42, 43)]
            cells += [Cell(f"few-{row}", fold, shots=4, draw=draw) for draw in range(2)]
            cells += [Cell(f"distilled-{row}", fold, members=3)]
            for cell in cells[: 2 if fold == 4 else None]:  # fold 4 is not finished but for single trainings
                lab.folder.keep(cell, with_skill(lab, cell, skill), seconds=1.0)
    text = said(monkeypatch, capsys, "more_labels.py", "table", table, "--out", out, "--shots", 4, "--draws", 2,
                "--members", 3)  # fmt: skip
    rows = {(cells[0], cells[1]): cells for cells in rows_of(text)}
    plain, annotated = rows["plain, one training", "5"], rows["annotated, one training", "5"]
    mean = rows["annotated, mean of 2", "5"]
    aucs = [float(cells[2].split()[0]) for cells in (plain, annotated, mean)]
    assert aucs == sorted(aucs)
    assert plain[5:8] == ["", "", ""]
    assert float(annotated[5].split()[0]) == pytest.approx(aucs[1] - aucs[0], abs=2e-4)
    assert annotated[6] == "<.001"
    assert rows["annotated, distilled of 3", "4"][6] == "<.001"
    assert ("few-annotated", "4") in rows
    conflict = rows["annotated", "probability of a contradiction"]
    assert (
        float(conflict[2].split()[0])
        > 0.8
        > 0.6
        > float(rows["plain", "conflict of contributions (`explain --find conflicts`)"][2].split()[0])
    )

    people = said(monkeypatch, capsys, "human_labels.py", table, "--out", out, "--seeds", 2)
    of = {
        tuple(cells[:3]): float(cells[3].split()[0])
        for cells in rows_of(people)
        if len(cells) == 6 and "alone" in cells[1]
    }
    for model in ("plain", "annotated"):
        assert of[model, "text alone", "text"] > 0.6 > of[model, "text alone", "image"]
        assert of[model, "image alone", "image"] > 0.6 > of[model, "image alone", "text"]
    assert of["annotated", "text alone", "text"] > of["plain", "text alone", "text"]


def test_precision_among_the_first() -> None:
    truth = np.asarray([1, 1, 0, 1] + [0] * 20)
    found = first_of(truth, -np.arange(24.0)[None], n=4)
    assert found.estimate.value == 0.75
    assert 0 <= found.estimate.low <= 0.75 <= found.estimate.high <= 1
