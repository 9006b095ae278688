from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from cotune.errors import ConfigError, CotuneError
from cotune.files import atomic_path, read_json, read_yaml, to_json, write_at, write_json, write_text


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def test_the_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        assert not target.exists()
    assert target.read_text() == "new"
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failing_block_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_and_harms_nothing(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with (
        pytest.raises(CotuneError, match=r"a\.txt.*(full|quota).*nothing already written"),
        atomic_path(target) as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(CotuneError, match="a folder of that name is in the way"):
        write_text(tmp_path, "x")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(CotuneError, match="a file is in the way"):
        write_text(tmp_path / "a" / "b.txt", "x")
    with (
        pytest.raises(CotuneError, match="a file is in the way"),
        atomic_path(tmp_path / "a", directory=True),
    ):
        pass
    assert (tmp_path / "a").read_text() == "x"


def test_a_denied_input_is_not_mistaken_for_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "other" / "input.png"))


def test_denied_output(tmp_path: Path) -> None:
    with pytest.raises(CotuneError, match="not permitted"), atomic_path(tmp_path / "a.txt") as temporary:
        raise PermissionError(errno.EACCES, "denied", str(temporary))


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "run"
    for content in ("one", "two"):
        with atomic_path(target, directory=True) as temporary:
            (temporary / f"{content}.txt").write_text(content)
    assert [path.name for path in target.iterdir()] == ["two.txt"]
    with pytest.raises(ValueError, match="no"), atomic_path(target, directory=True) as temporary:
        (temporary / "half.txt").write_text("half")
        raise ValueError("no")
    assert [path.name for path in target.iterdir()] == ["two.txt"]
    assert leftovers(tmp_path) == []


def test_json_holds_plain_values_only(tmp_path: Path) -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": float("nan"),
        "d": Path("x/y"),
        "e": {"z", "y"},
        1: "🙂",
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "a": 0.5, "b": [0, 1], "c": None, "d": "x/y", "e": ["y", "z"], "1": "🙂",
    }  # fmt: skip
    assert "🙂" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_with_half_a_surrogate_pair() -> None:
    assert json.loads(to_json({"a": "\ud83d"})) == {"a": "\ud83d"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{\n  oops", "line 2"),
        (b"\xff{}", "not UTF-8"),
        (b"[" * 100_000, "JSON|deep"),
        (b"9" * 5_000, "cannot be read"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CotuneError, match=words):
        read_json(tmp_path / "a.json")


def test_json_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CotuneError, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(CotuneError, match="is a folder"):
        read_json(tmp_path)


def test_writing_at_a_place_ends_the_file_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_at(path, 0, b"abcdef")
    write_at(path, 2, b"XY")
    assert path.read_bytes() == b"abXY"
    (tmp_path / "folder").mkdir()
    with pytest.raises(CotuneError, match="cannot write .*a folder of that name is in the way"):
        write_at(tmp_path / "folder", 0, b"x")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: !!timestamp no day", "not valid YAML"),
        (b"a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        (b"a: [" * 3_000, "not valid YAML|nested too deeply"),
        (b"a: &a [*a]", "contains itself"),
        (BOMB.encode(), "aliases stand for more than 100,000 values"),
        (b"a: \xff", "not UTF-8"),
    ],
)
def test_yaml_that_cannot_be_read(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_with_aliases_that_people_write(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: [*a, *a]\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == [{"x": 1}, {"x": 1}]


def test_yaml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="make one"):
        read_yaml(tmp_path / "a.yaml", missing="make one")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(Path("a\0b"))
