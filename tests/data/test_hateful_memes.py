from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cotune.cli import main
from cotune.data.images.folders import imported_folders
from cotune.data.images.load import load_image
from cotune.data.importers.hateful_memes import import_hateful_memes
from cotune.data.posts import read_posts
from cotune.errors import ConfigError, DataError


def raw(folder: Path, **splits: list[Any]) -> Path:
    """Write a raw folder: records as JSON, strings as they are, a picture for each record's `img`."""
    (folder / "img").mkdir(parents=True)
    for split, records in splits.items():
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for record in records:
            if isinstance(record, dict) and "img" in record:
                Image.new("RGB", (4, 4), "red").save(folder / record["img"])
    return folder


def meme(number: int | str, label: Any = 0, text: str = "words") -> dict[str, Any]:
    return {"id": number, "img": f"img/{str(number).zfill(5)}.png", "label": label, "text": text}


def test_train_and_dev_seen_become_one_table(tmp_path: Path) -> None:
    folder = raw(tmp_path / "hm", train=[meme("01235", 1), meme(42953)], dev_seen=[meme(8291, 1), meme("42953")])
    posts, report = import_hateful_memes(folder)
    assert posts.columns.tolist() == ["id", "text", "image", "label", "split"]
    assert posts.drop(columns="image").to_numpy().tolist() == [
        ["01235", "words", "1", "train"], ["42953", "words", "0", "train"],
        ["08291", "words", "1", "dev_seen"],
    ]  # fmt: skip
    assert posts["image"][0] == str(folder / "img" / "01235.png")
    assert report.count("id in two splits") == 1
    assert report.labels == {"0": 1, "1": 2}
    assert import_hateful_memes(tmp_path, splits=["dev_seen", " train "])[1].posts == 3


def test_bad_lines_are_skipped_and_listed(tmp_path: Path) -> None:
    lines = [
        meme(1), '{"id": 2, "img": "img/00002.png", ', "", "[]", "null", {"text": "no id"},
        meme(3, 7), meme(1),
        {"id": 4, "img": "img/00004.png"}, {"id": 5, "img": "img/00005.png", "text": 5},
        meme(6, None), meme(7, -1),
        meme(8, "1"), meme(9, 1.0), {"id": True}, {"id": 10, "text": "gone", "label": 0},
    ]  # fmt: skip
    posts, report = import_hateful_memes(raw(tmp_path, train=lines), splits=["train"])
    assert posts["id"].tolist() == ["00001", "00004", "00006", "00007", "00008", "00009"]
    assert posts["label"].tolist() == ["0", None, None, None, "1", "1"]
    assert posts["text"].tolist() == ["words", None, "words", "words", "words", "words"]
    assert [(item.kind, item.line) for item in report.problems] == [
        ("bad line", 2), ("bad line", 4), ("bad line", 5), ("bad line", 6), ("bad line", 7),
        ("duplicate id", 8),
        ("bad line", 10), ("bad line", 15), ("missing image", 16),
    ]  # fmt: skip
    assert (report.unlabelled, report.count("missing text"), report.lines) == (3, 1, 15)
    assert all("\n" not in item.reason for item in report.problems)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    folder = raw(tmp_path, train=[meme(1)])
    with (folder / "train.jsonl").open("ab") as handle:
        handle.write(b'{"id": 2, "text": "\xff"}\n')
    assert import_hateful_memes(folder, splits=["train"])[1].problems[0].reason == "not UTF-8 at byte 19"


def test_pictures_under_other_names_and_formats(tmp_path: Path) -> None:
    folder = raw(tmp_path, train=[meme(i) for i in (42953, 12, 13, 14, 15)])
    image = folder / "img"
    (image / "42953.png").unlink()
    Image.new("RGB", (4, 4)).save(image / "42953.jpg")
    (image / "00012.png").rename(image / "12.png")
    Image.new("RGB", (4, 4)).save(image / "00013.png", format="WEBP")
    (image / "00014.png").write_bytes(b"")
    (image / "00015.png").unlink()
    (image / "00015.png").mkdir()
    posts, report = import_hateful_memes(folder, splits=["train"])
    assert [Path(path).name for path in posts["image"]] == ["42953.jpg", "12.png", "00013.png"]
    assert [(item.kind, item.id) for item in report.notes] == [
        ("other name", "42953"), ("other name", "00012"), ("other format", "00013"),
    ]  # fmt: skip
    assert [item.id for item in report.problems] == ["00014", "00015"]
    assert report.problems[0].kind == "empty image"
    assert all(load_image(path).size == (4, 4) for path in posts["image"])


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    folder = raw(tmp_path, train=[meme(1)], dev_seen=[meme(2)])
    with pytest.raises(DataError, match=r"no dev_sen\.jsonl \(did you mean 'dev_seen'.*splits there: dev_seen, train"):
        import_hateful_memes(folder, splits=["train", "dev_sen"])
    with pytest.raises(DataError, match=r"holds no test\.jsonl"):
        import_hateful_memes(folder, splits=["test"])
    with pytest.raises(ConfigError, match="names no split"):
        import_hateful_memes(folder, splits=[" "])
    (folder / "train.jsonl").write_text("broken\n")
    with pytest.raises(DataError, match="of 1 line none gives a whole post"):
        import_hateful_memes(folder, splits=["train"])


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    record=st.fixed_dictionaries({}, optional={"id": WILD, "img": WILD, "label": WILD, "text": WILD}),
    junk=st.binary(max_size=40),
)
def test_no_record_is_wild_enough_to_stop_the_import(tmp_path: Path, record: dict[str, Any], junk: bytes) -> None:
    folder = tmp_path / "hm"
    if not folder.exists():
        raw(folder, train=[meme(1)])
    (folder / "train.jsonl").write_bytes(
        b"\n".join([json.dumps(meme(1)).encode(), json.dumps(record).encode(), junk, b""])
    )
    posts, report = import_hateful_memes(folder, splits=["train"])
    assert "00001" in posts["id"].tolist()
    assert report.lines == report.posts + len(report.problems)


@pytest.mark.parametrize("named", ["../private/a.png", "{whole}", "img/link.png", "..\\private\\a.png"])
def test_images_outside_of_the_raw_folder_are_listed_and_noted_for_nobody(tmp_path: Path, named: str) -> None:
    folder, private = raw(tmp_path / "hm", train=[meme(1)]), tmp_path / "private" / "a.png"
    private.parent.mkdir()
    Image.new("RGB", (4, 4), "red").save(private)
    (folder / "img" / "link.png").symlink_to(private)
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"id": 2, "img": named.replace("{whole}", str(private)), "text": "t", "label": 0}) + "\n")
    out = tmp_path / "work" / "posts.csv"
    out.parent.mkdir()
    command = ["import", "hateful-memes", str(folder), "--splits", "train", "--out", str(out)]
    assert main(command) == 0
    assert import_hateful_memes(folder, splits=["train"])[1].problems[0].kind == "unreadable image"
    assert read_posts(out)["id"].tolist() == ["00001"]
    assert imported_folders() == [os.path.realpath(folder / "img")]
    assert main([*command, "--allow-outside"]) == 0
    assert read_posts(out)["id"].tolist() == ["00001", "00002"]
    assert os.path.realpath(private.parent) in imported_folders()
