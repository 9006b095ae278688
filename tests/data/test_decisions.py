"""Decisions on labels: read, applied to posts, refused where they are about others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cotune.data.decisions import apply_decisions, read_decisions
from cotune.data.posts import read_posts
from cotune.errors import DataError

HEAD = "id,row,label,decision,given"


def posts(labels: list[str | None] | None = None, ids: list[str] | None = None) -> pd.DataFrame:
    labels = labels or ["no", "yes", "no", "yes"]
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    return read_posts(frame if ids is None else frame.assign(id=ids))


def decisions(folder: Path, *lines: str, head: str = HEAD) -> Path:
    path = folder / "decisions.csv"
    path.write_text("\n".join([head, *lines, ""]), encoding="utf-8")
    return path


def test_labels_are_replaced_and_posts_left_out(tmp_path: Path) -> None:
    path = decisions(tmp_path, "b,2,no,change,yes", "c,3,no,keep,no", "d,4,,exclude,yes")
    table = posts(ids=["a", "b", "c", "d"])
    found, note = apply_decisions(table, read_decisions(path))
    assert found["label"].tolist() == ["no", "no", "no"]
    assert found["row"].tolist() == [1, 2, 3]
    assert table["label"].tolist() == ["no", "yes", "no", "yes"], "the posts that were given stay"
    assert found.attrs["labels_from"] == {
        "file": "decisions.csv", "matched_by": "id", "keep": 1, "change": 1, "exclude": 1
    }  # fmt: skip
    assert note == "note: labels from decisions.csv, matched by id: 1 changed, 1 post left out, 1 kept"
    again, _ = apply_decisions(found, read_decisions(decisions(tmp_path, "b,2,no,change,yes")))
    assert again["label"].tolist() == ["no", "no", "no"], "what is decided already may be decided again"


def test_without_ids_posts_are_found_by_their_rows(tmp_path: Path) -> None:
    path = decisions(tmp_path, "3,yes", head="row,label")
    found, note = apply_decisions(posts(), read_decisions(path))
    assert found["label"].tolist() == ["no", "yes", "yes", "yes"]
    assert "matched by row" in note
    twice = decisions(tmp_path, "a,1,yes,change,no", "a,3,yes,change,no")
    found, note = apply_decisions(posts(), read_decisions(twice))
    assert found["label"].tolist() == ["yes", "yes", "yes", "yes"]
    assert "matched by row" in note


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    several = posts(["a|b", "a", "|", "b"])
    found, _ = apply_decisions(several, read_decisions(decisions(tmp_path, "0,1,|,change,a|b", "3,4,b|a,change,b")))
    assert found["label"].tolist() == ["|", "a", "|", "b|a"]
    numbers = posts(["1.5", "2.5", "3", "4"])
    found, _ = apply_decisions(numbers, read_decisions(decisions(tmp_path, "0,1,7.25,change,1.5")))
    assert found["label"].tolist() == ["7.25", "2.5", "3", "4"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["9,10,no,change,yes"], "row 1 of decisions.csv: there is no post with the id '9'"),
        (["0,1,yes,change,maybe"], "had the label 'maybe' when it was reviewed, but has 'no' here"),
        (["0,1,nope,change,no"], "no post has the label 'nope' (did you mean 'no'?)"),
        (["0,,yes,change,no", "0,,yes,change,no"], "2 decisions on the post id '0'"),
        (["0,1,yes,chnge,no"], "the decision 'chnge' is not known (did you mean 'change'?)"),
        (["0,1,,change,no"], "the new one is missing"),
        ([",,yes,change,no"], "has no id"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(DataError) as error:
        apply_decisions(posts(), read_decisions(decisions(tmp_path, *lines)))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no decisions on labels.*it has: text, mood"):
        read_decisions(decisions(tmp_path, "a,b", head="text,mood"))


def test_of_a_part_of_the_posts_other_decisions_are_left_aside(tmp_path: Path) -> None:
    path = read_decisions(decisions(tmp_path, "0,1,yes,change,no", "9,10,yes,change,no"))
    found, note = apply_decisions(posts(), path, partial=True)
    assert found["label"].tolist() == ["yes", "yes", "no", "yes"]
    assert note.endswith("; 1 decision on posts that are not used here")
    with pytest.raises(DataError, match="2 of 2 decisions"):
        apply_decisions(posts(ids=["w", "x", "y", "z"]), path, partial=True)
