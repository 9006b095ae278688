from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from cotune.data.importers.mvsa import combine_labels, import_mvsa
from cotune.data.posts import read_posts
from cotune.data.write import write_posts
from cotune.errors import ConfigError, DataError
from tiny import picture


def raw(folder: Path, lines: list[str], *, files: bool = True) -> Path:
    """Write a raw MVSA folder with one sound post for each line that begins with a number."""
    (folder / "data").mkdir(parents=True)
    (folder / "labelResultAll.txt").write_bytes("".join(f"{line}\r\n" for line in ["ID\ttext,image", *lines]).encode())
    for line in lines if files else []:
        number = line.split("\t")[0]
        if number.isdigit():
            Image.new("RGB", (4, 4), "red").save(folder / "data" / f"{number}.jpg")
            (folder / "data" / f"{number}.txt").write_bytes(f"post {number}\r\n".encode("gb18030"))
    return folder


def of_folder(name: str) -> Path:
    base = Path(os.environ.get("COTUNE_MVSA", Path(__file__).parents[3] / "shared" / "data"))
    folder = base / name
    if not (folder / "labelResultAll.txt").exists():
        pytest.skip(f"no {name} in $COTUNE_MVSA or beside the project")
    return folder


@pytest.mark.parametrize(
    ("votes", "xu_mao", "by_text", "by_all"),
    [
        ("positive,positive", "positive", "positive", "positive"),
        ("neutral,positive", "positive", "neutral", None),
        ("negative,neutral", "negative", "negative", None),
        ("positive,negative", None, "positive", None),
        ("positive,neutral\tpositive,neutral\tnegative,neutral", "positive", "positive", "neutral"),
        ("positive,neutral\tnegative,neutral\tneutral,neutral", None, None, "neutral"),
        ("positive,positive\tnegative,positive", None, None, "positive"),
        (
            "positive,neutral\tpositive,positive\tneutral,positive\tpositive,positive",
            "positive",
            "positive",
            "positive",
        ),
    ],
)
def test_rules(tmp_path: Path, votes: str, xu_mao: str | None, by_text: str | None, by_all: str | None) -> None:
    folder = raw(tmp_path / "raw", [f"1\t{votes}"])
    for rule, wanted in (("xu-mao", xu_mao), ("majority-text", by_text), ("majority-all", by_all)):
        combined = combine_labels(folder / "labelResultAll.txt", rule=rule)  # type: ignore[arg-type]
        assert combined.labels == ({"1": wanted} if wanted else {})
        assert len(combined.conflicts) + len(combined.ties) == (0 if wanted else 1)


def test_conflicts_and_ties_are_told_apart(tmp_path: Path) -> None:
    folder = raw(
        tmp_path / "raw",
        ["5\tpositive,negative", "6\tpositive,neutral\tnegative,neutral", "7\tneutral,neutral"],
    )
    combined = combine_labels(folder / "labelResultAll.txt")
    assert [(item.id, item.line, item.reason) for item in combined.conflicts] == [
        ("5", 2, "text positive, image negative")
    ]
    assert [(item.id, item.line) for item in combined.ties] == [("6", 3)]
    assert combined.labels == {"7": "neutral"}


def test_bad_lines_and_missing_files_are_listed_and_cost_nothing_else(tmp_path: Path) -> None:
    lines = ["1\tpositive,positive", "2", "3\tgood,bad", "4\tpositive", "1\tnegative,negative", ""]
    lines += [f"{number}\tneutral,neutral" for number in ("007", "8", "9", "10", "11", "12")]
    folder = raw(tmp_path / "raw", lines)
    data = folder / "data"
    (data / "8.txt").unlink()
    (data / "9.jpg").rename(data / "9.PNG")
    (data / "10.jpg").unlink()
    (data / "11.jpg").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(data / "12.jpg", format="PNG")
    posts, report = import_mvsa(folder)
    assert posts["id"].tolist() == ["1", "007", "9", "12"]
    assert posts["text"].tolist() == ["post 1", "post 007", "post 9", "post 12"]
    assert [(item.kind, item.id, item.line) for item in report.problems] == [
        ("bad line", "2", 3), ("bad line", "3", 4), ("bad line", "4", 5), ("bad line", "1", 6),
        ("missing text", "8", 9), ("missing image", "10", 11), ("empty image", "11", 12),
    ]  # fmt: skip
    assert [(item.kind, item.id) for item in report.notes] == [
        ("other format", "9"), ("other name", "9"), ("other format", "12"),
    ]  # fmt: skip
    assert (report.lines, report.posts, report.labels) == (11, 4, {"neutral": 3, "positive": 1})


def test_texts_are_read_as_chinese_windows_wrote_them(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", [f"{i}\tneutral,neutral" for i in (1, 2, 3, 4)])
    contents = [
        "caf\u00e9 \u2026 \u4f60\u597d".encode("gb18030"),
        "\u00c3\u00a9".encode("gb18030"),
        b"abc\xff\xff",
        b"",
    ]
    for number, content in enumerate(contents, start=1):
        (folder / "data" / f"{number}.txt").write_bytes(content)
    posts, report = import_mvsa(folder)
    assert posts["text"].tolist()[:2] == ["café … 你好", "Ã©"]
    assert posts["text"][2].startswith("abc\ufffd")
    assert posts["text"][3] == ""
    assert [(item.kind, item.id) for item in report.notes] == [("odd bytes in text", "3")]


def test_balance_draws_the_same_posts_for_the_same_seed(tmp_path: Path) -> None:
    lines = [f"{i}\t{label},{label}" for i, label in enumerate(["positive"] * 9 + ["negative"] * 3, start=1)]
    folder = raw(tmp_path / "raw", lines)
    posts, report = import_mvsa(folder, balance=4, seed=42)
    assert Counter(posts["label"]) == {"positive": 4, "negative": 3}
    assert report.left_by_balance == 5
    assert posts["id"].astype(int).is_monotonic_increasing
    assert posts.equals(import_mvsa(folder, balance=4, seed=42)[0])
    assert not posts.equals(import_mvsa(folder, balance=4, seed=1)[0])
    with pytest.raises(ConfigError, match="--balance"):
        import_mvsa(folder, balance=0)


def test_folders_that_are_not_mvsa(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        import_mvsa(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no labelResultAll\.txt"):
        import_mvsa(tmp_path)
    raw(tmp_path / "up" / "one", ["1\tneutral,neutral"])
    assert len(import_mvsa(tmp_path / "up")[0]) == 1
    raw(tmp_path / "up" / "two", ["1\tneutral,neutral"])
    with pytest.raises(DataError, match="in one, two; name one"):
        import_mvsa(tmp_path / "up")
    with pytest.raises(DataError, match="none is whole"):
        import_mvsa(raw(tmp_path / "bare", ["1\tneutral,neutral"], files=False))
    with pytest.raises(ConfigError, match="did you mean 'xu-mao'"):
        import_mvsa(tmp_path / "up" / "one", rule="xumao")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["posts.csv", "posts.tsv", "posts.jsonl", "posts.parquet"])
def test_the_table_finds_its_pictures_again(tmp_path: Path, name: str) -> None:
    posts, _ = import_mvsa(raw(tmp_path / "raw", ["1\tneutral,neutral", "2\tpositive,neutral"]))
    write_posts(posts, tmp_path / "out" / name)
    again = read_posts(tmp_path / "out" / name, allow_outside=True)
    assert again[["id", "text", "image", "label"]].to_numpy().tolist() == posts.to_numpy().tolist()
    if name.endswith(".csv"):
        assert "../raw/data/1.jpg" in (tmp_path / "out" / name).read_text()
    with pytest.raises(DataError, match="no ending"):
        write_posts(posts, tmp_path / "posts.xlsx")


@pytest.mark.mvsa
def test_the_real_mvsa_single() -> None:
    posts, report = import_mvsa(of_folder("MVSA_Single"))
    assert report.labels == {"negative": 1061, "neutral": 363, "positive": 2137}
    assert len(report.conflicts) == 358
    assert report.problems == []
    assert len(posts) == 3561


@pytest.mark.mvsa
def test_the_real_label_file_of_mvsa_multiple() -> None:
    combined = combine_labels(of_folder("MVSA_Multiple") / "labelResultAll.txt")
    assert (len(combined.labels), len(combined.conflicts), len(combined.ties)) == (17027, 342, 2231)
    assert combined.problems == []


@pytest.mark.parametrize("ending", ["jpg", "txt"])
@pytest.mark.parametrize("make", ["pipe", "device", "loop", "folder"])
def test_what_is_no_regular_file_is_listed_and_never_read(tmp_path: Path, ending: str, make: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in (1, 2):
        picture(number).save(data / f"{number}.jpg")
        (data / f"{number}.txt").write_text("hello")
    odd = data / f"2.{ending}"
    odd.unlink()
    if make == "pipe":
        os.mkfifo(odd)
    elif make == "folder":
        odd.mkdir()
    else:
        odd.symlink_to("/dev/zero" if make == "device" else odd.name)
    (tmp_path / "labelResultAll.txt").write_text("ID\ttext,image\n1\tpositive,positive\n2\tpositive,positive\n")
    posts, report = import_mvsa(tmp_path, allow_outside=True)  # a device is one wherever it lies
    assert posts["id"].tolist() == ["1"]
    (problem,) = report.problems
    assert (problem.id, problem.line) == ("2", 3)
    words = {
        "pipe": "is a device or pipe",
        "device": "is a device or pipe",
        "folder": "is a folder",
        "loop": "symbolic links",
    }
    assert words[make] in problem.reason


@pytest.mark.parametrize("linked", ["1.jpg", "1.txt", "data"])
def test_links_out_of_the_raw_folder_are_followed_when_allowed_alone(tmp_path: Path, linked: str) -> None:
    raw, private = tmp_path / "raw", tmp_path / "private"
    for folder in (raw / "data", private):
        folder.mkdir(parents=True)
        for number in (1, 2):
            picture(number).save(folder / f"{number}.jpg")
            (folder / f"{number}.txt").write_text(f"{folder.name} words")
    (raw / "labelResultAll.txt").write_text("ID\ttext,image\n1\tpositive,positive\n2\tpositive,positive\n")
    if linked == "data":
        shutil.rmtree(raw / "data")
        (raw / "data").symlink_to(private)
        with pytest.raises(DataError, match="none is whole"):
            import_mvsa(raw)
    else:
        (raw / "data" / linked).unlink()
        (raw / "data" / linked).symlink_to(private / linked)
        posts, report = import_mvsa(raw)
        assert posts["id"].tolist() == ["2"]
        (problem,) = report.problems
        assert (problem.id, problem.line, problem.file) == ("1", 2, linked)
        assert "lies outside of" in problem.reason
        assert "--allow-outside" in problem.reason
    posts, report = import_mvsa(raw, allow_outside=True)
    assert posts["id"].tolist() == ["1", "2"]
    assert report.problems == []
    assert import_mvsa(raw / "data" / ".." if linked != "data" else raw, allow_outside=True)[1].posts == 2


def test_links_within_the_raw_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    picture(1).save(tmp_path / "elsewhere.jpg")
    (tmp_path / "data" / "1.jpg").symlink_to(Path("..") / "elsewhere.jpg")
    (tmp_path / "data" / "1.txt").write_text("hello")
    (tmp_path / "labelResultAll.txt").write_text("ID\ttext,image\n1\tpositive,positive\n")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for raw in (tmp_path, tmp_path / "link"):
        assert import_mvsa(raw)[1].problems == []
