from __future__ import annotations

import gzip
import io
import json
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cotune.data.posts import (
    ColumnNames,
    count_labels,
    data_hash,
    has_image,
    has_text,
    iter_posts,
    read_posts,
)
from cotune.data.write import write_posts
from cotune.errors import DataError

COLUMNS = ["id", "text", "image", "label", "group", "row", "error"]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_comes_out_in_the_plain_form(tmp_path: Path) -> None:
    path = write(
        tmp_path / "posts.csv",
        'id,text,image,label,extra\r\n01,"two\nlines, ""a""",a.jpg,1.0,x\r\n2,NA,,,\r\n,"",b.png,0,\r\n',
    )
    posts = read_posts(path)
    assert posts.columns.tolist() == COLUMNS
    assert posts["id"].tolist() == ["01", "2", "row-3"]
    assert posts["text"].tolist() == ['two\nlines, "a"', "NA", ""]


def test_values_of_a_csv(tmp_path: Path) -> None:
    path = write(
        tmp_path / "posts.csv",
        'text,image,label,group\n"two\nlines",img/../a.jpg,1.0,7\nNA,,,\nnull,/abs/b.png, pos ,g\n"  ",file:///c%20d.png,01,\n',
    )
    posts = read_posts(path, allow_outside=True)
    assert posts["text"].tolist() == ["two\nlines", "NA", "null", "  "]
    assert posts["image"].tolist() == [str(tmp_path / "a.jpg"), None, "/abs/b.png", "/c d.png"]
    assert posts["label"].tolist() == ["1", None, "pos", "01"]
    assert posts["group"].tolist() == ["7", None, "g", None]
    assert posts["id"].tolist() == ["0", "1", "2", "3"]
    assert posts["row"].tolist() == [1, 2, 3, 4]
    assert count_labels(posts) == {"01": 1, "1": 1, "pos": 1}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_texts_live_through_every_format(tmp_path: Path, suffix: str, texts: list[str]) -> None:
    frame = pd.DataFrame({"id": [f"p{i}" for i in range(len(texts))], "text": texts}, dtype=object)
    write_posts(frame, tmp_path / f"posts{suffix}")
    wanted = [unicodedata.normalize("NFC", text) for text in texts]
    assert read_posts(tmp_path / f"posts{suffix}")["text"].tolist() == wanted
    pieces = list(iter_posts(tmp_path / f"posts{suffix}", 2))
    assert [text for piece in pieces for text in piece["text"]] == wanted


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet", ".csv.gz"]),
)
def test_any_bytes_give_posts_or_a_data_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = write(tmp_path / f"wild{suffix}", b"text,image\n" + content if suffix[1:] == "csv" else content)
    try:
        assert read_posts(path).columns.tolist() == COLUMNS
    except DataError as error:
        assert "\n" not in str(error)


def test_text_forms(tmp_path: Path) -> None:
    path = write(tmp_path / "posts.jsonl", '{"text": "e\\u0301 \\ud83d\\ude42 \\ud83d \\u05e9"}\n')
    assert read_posts(path)["text"].tolist() == ["é 🙂 \ufffd ש"]


def test_a_million_characters(tmp_path: Path) -> None:
    text = "word " * 200_000
    assert read_posts(write(tmp_path / "a.csv", f'text\n"{text}"\n'))["text"][0] == text


def test_bom_gzip_and_semicolons(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text;label\nol\u00e1, tu;1\n".encode("utf-8-sig"))
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as handle:
        handle.write('{"text": "ol\u00e1, tu", "label": 1}\n'.encode())
    for name in ("a.csv", "b.jsonl.gz"):
        posts = read_posts(tmp_path / name)
        assert posts[["text", "label"]].to_numpy().tolist() == [["olá, tu", "1"]]


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_blank_lines_before_the_header(tmp_path: Path, separator: str) -> None:
    rows = [["text", "label"], ["hello", "1"]]
    content = "\n  \n" + "".join(separator.join(row) + "\n" for row in rows)
    posts = read_posts(write(tmp_path / "a.csv", content))
    assert posts[["text", "label"]].to_numpy().tolist() == [["hello", "1"]]
    with pytest.raises(DataError, match="line 5: 1 of 2"):
        read_posts(write(tmp_path / "a.csv", content + "cut\n"))


def test_json_arrays_and_columns(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 0}, {"text": None, "label": True}, {"text": 5}]
    a = read_posts(write(tmp_path / "a.json", json.dumps(rows)))
    b = read_posts(write(tmp_path / "b.json", json.dumps({"text": ["a", None, 5], "label": [0, True, None]})))
    pd.testing.assert_frame_equal(a, b)
    assert a["text"].tolist() == ["a", None, "5"]
    assert a["label"].tolist() == ["0", "True", None]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "empty"),
        ("a.csv", "\n\n", "blank"),
        ("a.csv", "text,label\n", "no posts"),
        ("a.csv", "text,text\na,b\n", "'text' more than once"),
        ("a.csv", 'text,label\na,b\n"open,1\nx,2\n', "line 3.*never closed"),
        ("a.csv", 'text,label\n"a\nb",1\nx,2,3\n', "line 4: 3 fields"),
        ("a.csv", "id,text,image,label\n1,hello,a.jpg,x\n2,cut of", "line 3: 2 of 4 fields.*cut off"),
        ("a.csv", b"text,label\nok,1\n\xe9t\xe9,2\n", "line 3, byte 16 .*0xe9"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "UTF-16"),
        ("a.csv", "text,label\na,b\n".encode("utf-16-le"), "zero bytes in its first line, as UTF-16 has"),
        ("a.csv", "text,label\na,b\n".encode("utf-16-be"), "zero bytes in its first line, as UTF-16 has"),
        ("a.csv", "text,label\na,b\n".encode("utf-32"), "UTF-32"),
        ("a.csv", "txt,label\na,b\n", "no column 'text' and no 'image'.*'txt'.*txt, label.*--text-column"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": \n', "line 3: not valid JSON"),
        ("a.jsonl", '[{"text": "a"}]', "JSON array.*\\.json"),
        ("a.jsonl", '{"text": "a"}\n"b"\n', "line 2: holds str"),
        ("a.json", '{"text": ["a"], "label": []}', "different lengths"),
        ("a.json", '{"text": "a"}', "JSON array"),
        ("a.parquet", "not parquet", "not a readable Parquet"),
        ("a.csv.gz", "not gzip", "cannot be read to its end"),
        ("a.xls", "x", "no ending that is known"),
        ("posts", "x", "no ending that is known"),
        ("a.csv", "id,text\n5,a\n6,b\n5,c\n", "id '5' occurs in rows 1, 3"),
    ],
)  # fmt: skip
def test_faulty_tables_are_named(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_posts(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_a_header_of_a_hundred_thousand_columns_takes_no_minutes(tmp_path: Path) -> None:
    started = time.perf_counter()
    for names, words in ((["text", "text"], "more than once"), ([], "no column 'text'")):
        header = ",".join([*names, *(f"column {i}" for i in range(100_000))])
        with pytest.raises(DataError, match=words):
            read_posts(write(tmp_path / "a.csv", f"{header}\n"))
    assert time.perf_counter() - started < 30


def test_missing_table_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_posts(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_posts(tmp_path)


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "tweet,y\nhello,1\n")
    posts = read_posts(path, columns=ColumnNames(text="tweet", label="y"))
    assert posts[["text", "label"]].to_numpy().tolist() == [["hello", "1"]]
    with pytest.raises(DataError, match=r"no column 'twet' .*'tweet'.*--text-column"):
        read_posts(path, columns=ColumnNames(text="twet"))
    with pytest.raises(DataError, match=r"no column 'id2'.*--id-column"):
        read_posts(path, columns=ColumnNames(text="tweet", id="id2"))
    with pytest.raises(DataError, match=r"no column 'label'.*--label-column"):
        read_posts(path, columns=ColumnNames(text="tweet"), require_labels=True)


def test_remote_and_odd_paths(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    write(tmp_path / "img" / "a.png", "x")
    path = write(tmp_path / "a.csv", "image\ns3://bucket/a.png\nfile://img/a.png\nimg\\a.png\n")
    inside = str(tmp_path / "img" / "a.png")
    assert read_posts(path)["image"].tolist() == ["s3://bucket/a.png", inside, inside]


def test_a_data_frame_keeps_its_pictures() -> None:
    picture, array = Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)
    frame = pd.DataFrame(
        {
            "text": ["a", None, float("nan"), pd.NA, b"\xc3\xa9"],
            "image": [picture, array, b"raw", {"bytes": None, "path": "/x.png"}, Path("y.png")],
            "label": [0.0, 1.0, np.nan, np.int64(3), "x"],
        },
        index=[9, 9, 8, 7, 6],
    )
    posts = read_posts(frame)
    assert posts.index.tolist() == [0, 1, 2, 3, 4]
    assert posts["text"].tolist() == ["a", None, None, None, "é"]
    assert posts["label"].tolist() == ["0", "1", None, "3", "x"]
    assert posts["image"][0] is picture
    assert posts["image"][1] is array
    assert posts["image"].tolist()[2:] == [b"raw", "/x.png", str(Path("y.png").absolute())]
    assert read_posts(pd.DataFrame({"image": ["a.png"]}), base="/data")["image"][0] == "/data/a.png"


def test_what_counts_as_there() -> None:
    assert [has_text(value) for value in ("a", "", " \n", None, float("nan"))] == [True] + [False] * 4
    assert [has_image(value) for value in ("a.png", b"x", np.zeros((2, 2)))] == [True] * 3
    assert [has_image(value) for value in ("", b"", None, float("nan"))] == [False] * 4


def test_pieces_add_up_to_the_whole(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"t\n{i}" for i in range(7)], "label": [str(i % 2) for i in range(7)]})
    for suffix in (".csv", ".jsonl", ".parquet"):
        write_posts(frame, tmp_path / f"a{suffix}")
        pieces = list(iter_posts(tmp_path / f"a{suffix}", 3))
        assert [len(piece) for piece in pieces] == [3, 3, 1]
        whole = pd.concat(pieces, ignore_index=True)
        pd.testing.assert_frame_equal(whole, read_posts(tmp_path / f"a{suffix}"))
        assert whole["row"].tolist() == list(range(1, 8))


def test_a_first_label_that_comes_late_in_lines_of_json(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "b"}', '{"text": "c", "label": "x"}']
    pieces = iter_posts(write(tmp_path / "a.jsonl", "\n".join(lines)), 2, require_labels=True)
    assert [label for piece in pieces for label in piece["label"]] == [None, None, "x"]
    pieces = iter_posts(write(tmp_path / "b.jsonl", "\n".join(lines[:2])), 2, require_labels=True)
    with pytest.raises(DataError, match="no column 'label'"):
        list(pieces)


def test_blank_lines_are_no_posts(tmp_path: Path) -> None:
    assert len(read_posts(write(tmp_path / "a.csv", "text,label\na,1\n\n   \nb,2\n"))) == 2
    assert len(read_posts(write(tmp_path / "b.csv", 'text\na\n""\nb\n'))) == 3, "an empty post of the only column"


def test_streaming_faults(tmp_path: Path) -> None:
    pieces = iter_posts(write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b"}\n{oops\n'), 2)
    assert next(pieces)["text"].tolist() == ["a", "b"]
    with pytest.raises(DataError, match="line 3"):
        next(pieces)
    with pytest.raises(DataError, match="no posts"):
        next(iter_posts(write(tmp_path / "b.csv", "text\n"), 2))
    with pytest.raises(DataError, match="chunk_size"):
        next(iter_posts(tmp_path / "a.jsonl", 0))


def test_a_long_table_streams_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    with (tmp_path / "a.csv").open("w") as handle:
        handle.write("text\n")
        handle.writelines(f"{'word ' * 40}{i}\n" for i in range(20_000))
    tracemalloc.start()
    try:
        rows = sum(len(piece) for piece in iter_posts(tmp_path / "a.csv", 200))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 20_000
    assert peak < 2_000_000


def test_a_datasets_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    pictures = [Image.new("RGB", (5, 4), "red"), None, Image.new("RGB", (5, 4), "blue")]
    table = datasets.Dataset.from_dict(
        {"text": ["a", "b", None], "image": pictures, "label": [1, -1, 0]}, features=features
    )
    table.save_to_disk(str(tmp_path / "set"))
    posts = read_posts(tmp_path / "set")
    assert posts["text"].tolist() == ["a", "b", None]
    assert posts["label"].tolist() == ["pos", None, "neg"]
    assert isinstance(posts["image"][0], bytes)
    assert Image.open(io.BytesIO(posts["image"][0])).size == (5, 4)
    assert posts["image"][1] is None
    assert [len(piece) for piece in iter_posts(tmp_path / "set", 2)] == [2, 1]
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(DataError, match="holds the splits train"):
        read_posts(tmp_path / "dict")


def test_the_hash_follows_content_not_place(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (8, 8), "red").save(one / "a.png")
    write(one / "p.csv", "text,image,label\nhi,a.png,1\nyo,gone.png,0\n")
    shutil.copytree(one, tmp_path / "two")
    first = data_hash(read_posts(one / "p.csv"))
    assert first == data_hash(read_posts(tmp_path / "two" / "p.csv"))
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "two" / "a.png")
    assert first != data_hash(read_posts(tmp_path / "two" / "p.csv"))
    swapped = read_posts(write(one / "q.csv", "text,image,label\nhi,a.png,0\nyo,gone.png,1\n"))
    assert first != data_hash(swapped)
