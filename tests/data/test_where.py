"""Rows picked by the values of their columns, and a split that must not be ignored in silence."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cotune.cli import main
from cotune.data.posts import ColumnNames, iter_posts, read_posts
from cotune.data.tables.where import RowFilter, parse_where
from cotune.errors import ConfigError, DataError
from cotune.run import Run, save_run
from runs import tiny_fit, tiny_settings
from tiny import Zoo, make_posts

ROWS = [("train", 1, "a", True), ("test", 2, "b", False), ("train", 2, "c", None), ("dev", 3, "d", True),
        (" train ", 1, "e", False), (None, 1, "f", None)]  # fmt: skip


def frame() -> pd.DataFrame:
    table = pd.DataFrame(ROWS, columns=["split", "fold", "text", "flag"])
    return table.assign(label=["x", "y"] * 3)


@pytest.fixture(params=[".csv", ".jsonl", ".json", ".parquet", "frame"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "frame":
        return frame()
    path = tmp_path / f"posts{request.param}"
    if request.param == ".parquet":
        frame().to_parquet(path)
    elif request.param == ".csv":
        frame().to_csv(path, index=False)
    else:
        records = json.loads(frame().to_json(orient="records"))
        lines = "".join(json.dumps(record) + "\n" for record in records)
        path.write_text(lines if request.param == ".jsonl" else json.dumps(records))
    return path


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        ({"split": "train"}, ["a", "c", "e"]),
        ({"split": ["train", "dev"]}, ["a", "c", "d", "e"]),
        ({"split": "train", "fold": 1}, ["a", "e"]),
        ({"fold": "2"}, ["b", "c"]),
        ({"fold": 2.0}, ["b", "c"]),
        ({"flag": True}, ["a", "d"]),
        ({"flag": "true"}, ["a", "d"]),
        ({"split": ""}, ["f"]),
        ({"text": "d"}, ["d"]),
        ({"label": "y", "split": "train"}, []),
        ({}, ["a", "b", "c", "d", "e", "f"]),
    ],
)
def test_rows_are_picked_and_keep_their_numbers(table: Any, where: dict[str, Any], texts: list[str]) -> None:
    if not texts:
        with pytest.raises(DataError, match="no row with label=y and split=train; label holds x 3, y 3; split holds"):
            read_posts(table, where=where)
        return
    posts = read_posts(table, where=where)
    assert posts["text"].tolist() == texts
    assert posts["row"].tolist() == ["abcdef".index(text) + 1 for text in texts]
    assert posts["id"].tolist() == [str("abcdef".index(text)) for text in texts]
    assert posts.index.tolist() == list(range(len(texts)))
    if isinstance(table, Path):
        pieces = list(iter_posts(table, 2, where=where))
        assert all(len(piece) for piece in pieces)
        pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), posts)


def test_an_unknown_column_and_an_unknown_value_are_named(table: Any) -> None:
    with pytest.raises(DataError, match=r"no column 'splt' to pick rows by \(did you mean 'split'\?\); it has: split"):
        read_posts(table, where={"splt": "train"})
    with pytest.raises(DataError, match=r"no row with split=trian \(did you mean 'train'\?\); split holds train 3, "):
        read_posts(table, where={"split": "trian"})
    if isinstance(table, Path):
        with pytest.raises(DataError, match="no column 'splt'"):
            list(iter_posts(table, 2, where={"splt": "train"}))
        with pytest.raises(DataError, match="no row with split=trian"):
            list(iter_posts(table, 2, where={"split": "trian"}))


def test_a_column_that_comes_late_in_lines_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c", "split": "test"}\n')
    for posts in (read_posts(tmp_path / "a.jsonl", where={"split": "test"}),
                  *iter_posts(tmp_path / "a.jsonl", 1, where={"split": "test"})):  # fmt: skip
        assert posts["row"].tolist() == [3]


def test_a_column_of_ids_does_not_fill_the_memory_or_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{i},a\n" for i in range(5000)))
    with pytest.raises(DataError) as caught:
        read_posts(tmp_path / "a.csv", where={"id": "x" * 500})
    assert len(str(caught.value)) < 400
    assert read_posts(tmp_path / "a.csv", where={"id": "4999"})["row"].tolist() == [5000]


def test_how_it_is_written() -> None:
    assert parse_where(["split=train", "lang=en", "split=dev", "eq=a=b", "empty="]) == {
        "split": ["train", "dev"], "lang": ["en"], "eq": ["a=b"], "empty": [""],
    }  # fmt: skip
    for wrong in ("split", "=train", " =x", ""):
        with pytest.raises(ConfigError, match="--where takes COLUMN=VALUE"):
            parse_where([wrong])
    with pytest.raises(ConfigError, match="no value is given for the column 'split'"):
        RowFilter({"split": []})


def test_the_note_on_a_split_that_is_not_used(table: Any) -> None:
    told: list[str] = []
    read_posts(table, tell=told.append)
    assert told == [
        "note: the column 'split' (train 3, test 1, dev 1, (empty) 1) is not used, all rows count; "
        "use one part with --where split=train"
    ]
    told.clear()
    read_posts(table, where={"split": "train"}, tell=told.append)
    read_posts(table, columns=ColumnNames(group="split"), tell=told.append)
    read_posts(table, where={"fold": 3}, tell=told.append)  # one value of split alone is left
    assert told == []
    if isinstance(table, Path):
        list(iter_posts(table, 4, tell=told.append))
        assert len(told) == 1


# ---- from the command line -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    posts = make_posts(folder / "images", 24, gaps=False).drop(columns=["row", "group"])
    posts["split"] = ["train"] * 12 + ["test"] * 8 + ["dev"] * 4
    posts.to_csv(folder / "posts.csv", index=False)
    return folder / "posts.csv"


@pytest.fixture(scope="module")
def saved(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("saved")
    run = tiny_fit(zoo, folder, tune="frozen").run
    save_run(folder / "run", run)
    return folder / "run", run


def flags(zoo: Zoo, cache: Path) -> list[str]:
    settings = tiny_settings(zoo, cache, tune="frozen")
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def test_fit_trains_on_the_part_that_is_asked_for(
    split_table: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = flags(zoo, tmp_path / "cache")
    assert main(["fit", str(split_table), "--out", str(tmp_path / "a"), *more]) == 0
    assert "the column 'split' (train 12, test 8, dev 4) is not used" in " ".join(capsys.readouterr().err.split())
    where = ["--where", "split=train", "--validation", str(split_table), "--validation-where", "split=dev"]
    assert main(["fit", str(split_table), "--out", str(tmp_path / "b"), *where, *more]) == 0
    assert "'split'" not in capsys.readouterr().err
    counted = json.loads((tmp_path / "b" / "metrics.json").read_text())["posts"]
    assert (counted["train"], counted["held_out"]) == (12, 4)
    assert main(["fit", str(split_table), "--out", str(tmp_path / "c"), "--validation-where", "split=dev", *more]) == 2
    assert "--validation-where picks rows of a validation table" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_evaluate_predict_explain_and_check(
    split_table: Path, saved: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = str(saved[0]), str(split_table)
    where = ["--where", "split=test", "--where", "split=dev"]
    assert main(["evaluate", run, table, "--bootstrap", "0", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 12
    assert main(["evaluate", run, table, "--bootstrap", "0", "--json"]) == 0
    assert "is not used" in capsys.readouterr().err
    assert main(["predict", run, table, "--out", str(tmp_path / "p.csv"), "--chunk-size", "5", *where]) == 0
    assert pd.read_csv(tmp_path / "p.csv")["id"].tolist() == [f"p{i}" for i in range(12, 24)]
    assert "is not used" not in capsys.readouterr().err
    out = tmp_path / "x"
    assert (
        main(["explain", run, table, "--out", str(out), "--limit", "0", "--no-words", "--word-posts", "0", *where]) == 0
    )
    assert pd.read_csv(out / "modality.csv")["row"].tolist() == list(range(13, 25))
    capsys.readouterr()
    assert main(["check", table, "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["posts"] == 12


def test_what_is_wrong_is_one_line_and_nothing_is_written(
    split_table: Path, saved: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table, out = str(saved[0]), str(split_table), str(tmp_path / "out")
    for arguments in (["check", table], ["predict", run, table, "--out", out + ".csv"], ["evaluate", run, table, "--out", out],
                      ["fit", table, "--out", out], ["bench", table, "--out", out], ["explain", run, table, "--out", out]):  # fmt: skip
        for where, words in (("split=validation", "no row with split=validation"), ("splits=a", "no column 'splits'"),
                             ("split", "--where takes COLUMN=VALUE")):  # fmt: skip
            assert main([*arguments, "--where", where]) == 2
            err = capsys.readouterr().err
            assert words in err
            assert "Traceback" not in err
            assert err.strip().count("\n") == 0
        assert not Path(out).exists()
        assert not Path(out + ".csv").exists()


def test_bench_uses_the_part_that_is_asked_for(
    split_table: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [
        "--methods",
        "svm",
        "--folds",
        "2",
        "--protocol",
        "paper",
        "--bootstrap",
        "0",
        "--emap",
        "0",
        *flags(zoo, tmp_path / "cache"),
    ]
    assert main(["bench", str(split_table), "--out", str(tmp_path / "b"), "--where", "split=train", *more]) == 0
    assert "is not used" not in capsys.readouterr().err
    assert "12 posts" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")


def test_the_importer_says_how_to_use_its_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    (tmp_path / "img").mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(tmp_path / "img" / f"{number:05}.png")
        name = ("train", "dev_seen")[number - 1]
        line = {"id": number, "img": f"img/{number:05}.png", "label": 1, "text": "a"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["import", "hateful-memes", str(tmp_path), "--out", str(tmp_path / "p.csv")]) == 0
    assert "--where split=train" in capsys.readouterr().out
    assert read_posts(tmp_path / "p.csv", where={"split": "dev_seen"})["id"].tolist() == ["00002"]


@pytest.mark.parametrize("day", ["2024-01-02", datetime.date(2024, 1, 2), pd.Timestamp("2024-01-02")])
def test_days_are_compared_as_they_are_written(tmp_path: Path, day: object) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "day": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"])})
    frame.to_parquet(tmp_path / "days.parquet")
    for source in (frame, tmp_path / "days.parquet"):
        assert read_posts(source, where={"day": day})["text"].tolist() == ["b"]
