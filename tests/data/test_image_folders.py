"""Images are read from the table's own folder, and from elsewhere only where the user says so."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cotune.cli import main
from cotune.data.also import with_also
from cotune.data.images.folders import ImageFolders, imported_folders, record_imported
from cotune.data.posts import ColumnNames, iter_posts, read_posts
from cotune.data.tables.row_errors import row_errors
from cotune.run import load_run
from runs import tiny_settings
from tiny import Zoo


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 99, 200)).save(path)
    return path


def table(folder: Path, images: list[str], name: str = "posts.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({"text": [f"words {i}" for i in range(len(images))], "image": images})
    frame["label"] = [("yes", "no")[i % 2] for i in range(len(images))]
    frame.to_csv(folder / name, index=False)
    return folder / name


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """A table that names its own images, in every way that leads out of its folder, and back into it."""
    own, secret = tmp_path / "own", tmp_path / "own-secret" / "s.png"
    picture(own / "img" / "a.png")
    picture(secret)
    (own / "link.png").symlink_to(secret)
    (own / "inner.png").symlink_to(own / "img" / "a.png")
    (own / "away").symlink_to(secret.parent)
    (own / "dangling.png").symlink_to(tmp_path / "nothing.png")
    names = ["img/a.png", "img/../img/a.png", str(own / "img" / "a.png"), "inner.png", "img/none.png", "x\x00.png",
             "../own-secret/s.png", str(secret), secret.as_uri(), "link.png", "away/s.png", "/etc/passwd",
             "~/.ssh/id_rsa", "../../../../../../../../etc/hostname", "dangling.png"]  # fmt: skip
    return table(own, names)


def test_only_images_below_the_tables_folder_are_named(posts: Path) -> None:
    found = read_posts(posts)
    errors = row_errors(found)
    assert [error is None for error in errors] == [True] * 6 + [False] * 9
    assert found["image"].isna().tolist() == [False] * 6 + [True] * 9
    for error in errors[6:]:
        assert error is not None
        assert error.fields == ("image",)
        assert "--allow-outside" in error.reason
        assert str(posts.parent) in error.reason
    assert found["text"].notna().all()
    pieces = pd.concat(list(iter_posts(posts, 4)), ignore_index=True)
    assert pieces["image"].tolist() == found["image"].tolist()
    whole = read_posts(posts, allow_outside=True)
    assert row_errors(whole) == [None] * 15
    assert whole["image"].notna().all()


def test_links_of_the_tables_own_folder_are_followed_too(posts: Path, tmp_path: Path) -> None:
    (tmp_path / "by-link").symlink_to(posts.parent)
    found = read_posts(tmp_path / "by-link" / "posts.csv")
    assert found["image"].notna().tolist() == [True] * 6 + [False] * 9


def test_python_objects_and_a_folder_that_is_named_are_trusted(posts: Path, tmp_path: Path) -> None:
    frame = read_posts(pd.read_csv(posts), base=posts.parent)
    assert row_errors(frame) == [None] * 15
    confined = read_posts(pd.read_csv(posts), base=posts.parent, allow_outside=False)
    assert sum(error is not None for error in row_errors(confined)) == 9
    elsewhere = table(tmp_path / "tables", ["s.png", str(posts.parent / "img" / "a.png")])
    assert [error is None for error in row_errors(read_posts(elsewhere, base=tmp_path / "own-secret"))] == [True, False]


def test_a_table_that_was_fetched_names_no_file_of_this_machine(posts: Path) -> None:
    found = read_posts(posts, base="memory://bucket/posts")
    assert found["image"].iloc[0] == "memory://bucket/posts/img/a.png"
    errors = row_errors(found)
    assert [errors[i] is None for i in (0, 2, 7, 8, 11)] == [True, False, False, False, False]


def test_folders_whose_name_begins_alike_and_the_root() -> None:
    assert ImageFolders("/data/a").refusal("/data/ab/x.png") is not None
    assert ImageFolders("/").refusal("/data/ab/x.png") is None
    assert ImageFolders("/data/a").refusal("https://example.org/x.png") is None
    assert ImageFolders("/data/a").refusal("data:image/png;base64,AAAA") is None


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "one.png").symlink_to(tmp_path / "two.png")
    (tmp_path / "two.png").symlink_to(tmp_path / "one.png")
    path = table(tmp_path, ["one.png", "one.png/x.png"])
    assert len(read_posts(path)) == 2


def test_an_imported_table_needs_no_flag_wherever_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    (raw / "data").mkdir(parents=True)
    lines = [f"{i}\tneutral,neutral" if i % 2 else f"{i}\tpositive,positive" for i in range(1, 5)]
    (raw / "labelResultAll.txt").write_text("ID\ttext,image\n" + "\n".join(lines) + "\n")
    for i in range(1, 5):
        picture(raw / "data" / f"{i}.jpg", i)
        (raw / "data" / f"{i}.txt").write_text(f"post {i}")
    picture(raw / "other.png")
    out = tmp_path / "work" / "posts.csv"
    out.parent.mkdir()
    assert main(["import", "mvsa", str(raw), "--out", str(out)]) == 0
    assert f"images in {os.path.realpath(raw / 'data')} from now on" in " ".join(capsys.readouterr().err.split())
    assert row_errors(read_posts(out)) == [None] * 4
    assert main(["import", "mvsa", str(raw), "--out", str(out)]) == 0  # noted once
    assert imported_folders() == [os.path.realpath(raw / "data")]
    # Images lie there, not beside it; and a table from anybody may name them.
    other = table(tmp_path / "mail", [str(raw / "data" / "1.jpg"), str(raw / "other.png")])
    assert [error is None for error in row_errors(read_posts(other))] == [True, False]


def test_what_is_noted_is_the_users_alone_and_damage_allows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    images = [str(picture(tmp_path / f"f{i}" / "a.png")) for i in range(3)]
    assert record_imported(images[:2], tmp_path / "f0") == [os.path.realpath(tmp_path / "f1")]
    notes = tmp_path / "config" / "cotune" / "image_folders.txt"
    notes.write_bytes(notes.read_bytes() + b"\n/\nrelative\n\x00\xff\n" + str(tmp_path / "f2").encode())
    assert os.path.realpath(tmp_path / "f1") in imported_folders()
    assert not {"/", "relative", str(tmp_path / "f2")} & set(imported_folders())
    assert ImageFolders(str(tmp_path / "elsewhere")).refusal(images[2]) is not None
    monkeypatch.setenv("XDG_CONFIG_HOME", str(notes))
    assert imported_folders() == []


def test_import_without_a_place_for_its_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "hm"
    picture(raw / "img" / "00001.png")
    (raw / "train.jsonl").write_text('{"id": 1, "img": "img/00001.png", "text": "t", "label": 0}\n')
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    (tmp_path / "work").mkdir()
    assert main(["import", "hateful-memes", str(raw), "--splits", "train", "--out", str(tmp_path / "work/p.csv")]) == 0
    assert "--allow-outside" in capsys.readouterr().err


def test_further_tables_are_confined_to_their_own_folders(posts: Path) -> None:
    main_posts = read_posts(posts)
    both = with_also(main_posts, [str(posts)], ColumnNames())
    assert sum(error is not None for error in row_errors(both)) == 18
    both = with_also(main_posts, [str(posts)], ColumnNames(), allow_outside=True)
    assert sum(error is not None for error in row_errors(both)) == 9


@pytest.mark.parametrize("flag", [[], ["--allow-outside"]])
def test_commands_refuse_by_row_and_runs_remember(
    flag: list[str], zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = [str(picture(tmp_path / "own" / f"{i}.png", 20 * i)) for i in range(6)]
    outside = [str(picture(tmp_path / "else" / f"{i}.png", 20 * i)) for i in range(2)]
    path = table(tmp_path / "own", [*inside, *outside])
    check = table(tmp_path / "own", [*inside[:3], *outside], "check.csv")
    settings = tiny_settings(zoo, tmp_path / "c", tune="frozen", validation=str(check))
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    run = tmp_path / "run"
    assert main(["fit", str(path), "--out", str(run), "--json", *flags, *flag]) == 0
    said = capsys.readouterr().err
    assert ("row 7: the image" in said) == ("row 4: the image" in said) == (not flag)
    made = load_run(run)
    assert made.metrics["posts"]["train"] == (8 if flag else 6), made.metrics["posts"]
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(run), str(path), "--out", str(out), "--bad-images", "text-only", *flag]) == 0
    found = pd.read_csv(out)
    assert found["error"].notna().tolist() == [False] * 6 + [not flag] * 2
    assert found["label"].isna().tolist() == [False] * 6 + [not flag] * 2
    # An image that is named on the command line is the user's own choice.
    assert main(["predict", str(run), "--image", outside[0], "--text", "words", "--json"]) == 0
    if flag:  # from the record alone
        assert main(["reproduce", str(run), "--json"]) == 0


def test_a_table_of_the_demos_posts_may_be_anywhere(tmp_path: Path) -> None:
    from cotune.demo import read_demo_posts

    read_demo_posts().head(5).to_csv(tmp_path / "posts.csv", index=False)
    assert row_errors(read_posts(tmp_path / "posts.csv")) == [None] * 5
