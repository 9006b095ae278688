from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
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


def test_the_number_of_an_error_that_a_native_writer_passes_on_is_understood(tmp_path: Path) -> None:
    error = RuntimeError("Error while serializing: I/O error: File too large (os error 27)")
    with pytest.raises(CotuneError, match="does not allow a file this large"), atomic_path(tmp_path / "a"):
        raise error
    error = RuntimeError("Error while serializing: I/O error: No such process (os error 3)")
    with pytest.raises(RuntimeError, match="No such process"), atomic_path(tmp_path / "a"):
        raise error


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    write = (
        "import os, signal, sys; from pathlib import Path; from cotune.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as file, atomic_path(Path(sys.argv[2]), directory=True) as folder:\n"
        "    file.write_text('half'); (folder / 'part').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", write, tmp_path / "a.txt", tmp_path / "folder"], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = leftovers(tmp_path)
    assert len(left) == 2
    mine = left[0].split("-")
    kept = {
        ".tmp-mine": "a name of somebody else",
        "-".join([mine[0], "00000000", *mine[2:]]): "of another machine",
        "-".join([mine[0], mine[1], f"{os.getppid():x}", *mine[3:]]): "of a process that lives",
    }
    for name, content in kept.items():
        (tmp_path / name).write_text(content)
    write_text(tmp_path / "b.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "b.txt"])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
        RuntimeError("database or disk is full"),
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
