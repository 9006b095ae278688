"""The corpus of hostile posts, in a small size: every input is read, or named with its row or file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotune.cli import main
from cotune.data.checks.quality import check_posts
from cotune.data.posts import read_posts
from cotune.errors import CotuneError
from cotune.predict import Predictor
from explained import random_run
from tiny import Zoo

SCRIPTS = Path(__file__).parents[2] / "scripts"
Line = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        from make_hostile_posts import make_corpus
    finally:
        sys.path.remove(str(SCRIPTS))
    folder = tmp_path_factory.mktemp("hostile") / "corpus"
    made = make_corpus(folder, count=100, tables=21, rows=300, longest=20_000, bomb=2**22)
    assert sum(made.values()) > 800
    return folder


def manifest(corpus: Path, start: str) -> list[Line]:
    lines = (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["file"].startswith(start)]


@pytest.mark.parametrize("table", ["images.csv", "texts.jsonl", "places.jsonl", "many_rows.csv"])
def test_each_post_is_predicted_or_named(corpus: Path, zoo: Zoo, table: str) -> None:
    posts = read_posts(corpus / table)
    frame = Predictor(random_run(zoo, classes=2), device="cpu").frame(posts)
    assert frame["id"].tolist() == posts["id"].tolist()
    assert (frame["label"].isna() == frame["error"].notna()).all()
    report = check_posts(posts)
    named = {each.row for each in (*report.image_troubles, *report.row_errors)} | set(report.without_both)
    assert named == set(posts["row"][frame["error"].notna()])
    assert all(len(error) < 600 for error in frame["error"].dropna())
    wrong = [
        (line["id"], line["expected"], frame["error"][line["row"] - 1])
        for line in manifest(corpus, table)
        if line["row"] and line["expected"] != "either" and (line["expected"] == "named") != (line["row"] in named)
    ]
    assert not wrong


def test_each_table_is_read_or_named(corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for line in manifest(corpus, "tables/"):
        path = corpus / line["file"]
        try:
            read_posts(path)
            found, said = "read", ""
        except CotuneError as error:
            found, said = "named", str(error)
            if path.name not in said or len(said) > 2_000:
                found = "silent"
        if found == "silent" or line["expected"] not in ("either", found):
            wrong.append((path.name, line["expected"], found, said[:300]))
    assert not wrong
    capfd.readouterr()


@pytest.mark.parametrize("name", ["mvsa", "hateful-memes"])
def test_each_record_of_raw_data_is_imported_or_named(
    corpus: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--splits", "train"] if name == "hateful-memes" else []
    raw = corpus / "raw" / name.replace("-", "_")
    assert main(["import", name, str(raw), "--out", str(tmp_path / "posts.csv"), "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lines"] == len(manifest(corpus, f"raw/{raw.name}"))
    assert found["posts"] + sum(len(found[key]) for key in ("problems", "conflicts", "ties")) >= found["lines"]
    assert main(["check", str(tmp_path / "posts.csv"), "--json", "--allow-outside"]) == 0


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "xlsx", "csv.gz"])
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_table_or_an_error_with_its_name(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"table.{ending}"
    path.write_bytes(content)
    try:
        posts = read_posts(path)
    except CotuneError as error:
        assert path.name in str(error)
    else:
        assert len(posts)
