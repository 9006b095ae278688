"""Published splits of MVSA in the layouts in use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_mvsa import raw

from cotune.cli import main
from cotune.data.importers.mvsa import import_mvsa
from cotune.data.importers.splits import read_splits
from cotune.errors import DataError


def numbered(folder: Path, first: int, header: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"{10 + i},{'positive' if i % 2 else 'negative'},{10 + i}.txt,{10 + i}.jpg" for i in range(6)]
    (folder / "valid_pairlist.txt").write_text("\n".join([*(["id,label,text,image"] if header else []), *rows]) + "\n")
    for name, lines in {
        "train_1": [0, 1, 2],
        "val_1": [3],
        "test_1": [4, 5],
        "train_10": [2, 3, 4, 5],
        "test_10": [0, 1],
    }.items():
        (folder / f"{name}.txt").write_text("".join(f"{line + first:.18e}\n" for line in lines))
    return folder


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("header", [True, False])
def test_files_of_line_numbers_counted_from_0_or_1(tmp_path: Path, first: int, header: bool) -> None:
    found = read_splits(numbered(tmp_path, first, header))
    assert list(found.columns) == ["split_1", "split_2"]
    assert found.columns["split_1"] == {
        "10": "train", "11": "train", "12": "train", "13": "validation", "14": "test", "15": "test",
    }  # fmt: skip
    assert found.columns["split_2"]["10"] == "test"
    assert found.labels["11"] == "positive"


def as_json(folder: Path) -> Path:
    for name, ids in (("train", ["10", "11"]), ("dev", ["12"]), ("test", [13])):
        folder.mkdir(parents=True, exist_ok=True)
        posts = [{"id": i, "text": "words", "emotion_label": "negative"} for i in ids]
        (folder / f"{name}.json").write_text(json.dumps(posts))
    return folder


def test_json_lists_in_one_folder_or_one_for_each_fold(tmp_path: Path) -> None:
    one = read_splits(as_json(tmp_path / "one"))
    assert one.columns == {"split": {"10": "train", "11": "train", "12": "validation", "13": "test"}}
    for fold in (2, 10, 1):
        as_json(tmp_path / "many" / f"10-fold-{fold}")
    assert list(read_splits(tmp_path / "many").columns) == ["split_1", "split_2", "split_3"]


def test_an_import_gets_columns_and_says_what_differs(tmp_path: Path) -> None:
    lines = [f"{10 + i}\t{'negative,negative' if i != 3 else 'positive,positive'}" for i in range(5)]
    frame, report = import_mvsa(raw(tmp_path / "raw", lines), splits=as_json(tmp_path / "splits"))
    assert frame["split"].tolist() == ["train", "train", "validation", "test", None]
    told = [(note.kind, note.reason) for note in report.notes]
    assert ("published split", "1 imported post is in no part of it") in told
    assert ("another published label", "published as negative, here positive") in told
    assert report.to_dict()["posts"] == 5


def test_the_command_counts_posts_in_no_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{10 + i}\tnegative,negative" for i in range(5)]
    words = ["import", "mvsa", raw(tmp_path / "raw", lines), "--splits-from", as_json(tmp_path / "splits")]
    assert main([*map(str, words), "--out", str(tmp_path / "posts.csv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "The column split (train 2, validation 1, test 1, empty 1) tells the parts apart" in out


def test_what_is_no_published_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder; --splits-from takes one with train_1.txt"):
        read_splits(tmp_path / "none")
    with pytest.raises(DataError, match="holds no published split"):
        read_splits(tmp_path)
    folder = numbered(tmp_path / "a", 0)
    (folder / "train_1.txt").write_text("0\n99\n")
    with pytest.raises(DataError, match="names line 99, but valid_pairlist.txt has 6 posts"):
        read_splits(folder)
    (folder / "train_1.txt").write_text("0\nthree\n")
    with pytest.raises(DataError, match="entry 2: 'three' is no line number"):
        read_splits(folder)
    (folder / "train_1.txt").write_text("0\n4\n")
    with pytest.raises(DataError, match="names the post '14', which is in the .* part too"):
        read_splits(folder)
    (folder / "train_1.txt").unlink()
    with pytest.raises(DataError, match="has no train part"):
        read_splits(folder)
    (folder / "valid_pairlist.txt").unlink()
    with pytest.raises(DataError, match="holds no pair list"):
        read_splits(folder)
    other = as_json(tmp_path / "b")
    for text, words in (("{}", "is no list of posts"), ("[3]", "entry 1: a post has an id"), ("[", "is no JSON")):
        (other / "dev.json").write_text(text)
        with pytest.raises(DataError, match=words):
            read_splits(other)


@pytest.mark.parametrize("odd", ["train_1.txt", "pairlist.txt", "train.json"])
@pytest.mark.parametrize("make", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_never_read(tmp_path: Path, odd: str, make: str) -> None:
    as_json(tmp_path) if odd == "train.json" else numbered(tmp_path, 0)
    path = next(path for path in tmp_path.rglob("*") if path.name.lower().endswith(odd))
    path.unlink()
    if make == "device":
        path.symlink_to("/dev/zero")
    else:
        {"pipe": os.mkfifo, "folder": os.mkdir}[make](path)
    with pytest.raises(DataError, match=f"{odd} cannot be read: is a (device or pipe|folder)"):
        read_splits(tmp_path)
