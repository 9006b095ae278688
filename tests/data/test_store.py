from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.data import store as store_module
from cotune.data.store import ArrayStore, StoreFullError, default_root, evict, store_settings, usable_root
from cotune.errors import CotuneError


def block(seed: int, rows: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (rows, width)).astype(np.uint8)


def new(folder: Path, **more: int) -> ArrayStore:
    return ArrayStore(folder, dtype="uint8", row_shape=(3,), **more)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["uint8", "float16", "float32", "int32"]),
    st.lists(st.integers(1, 4), max_size=3),
    st.lists(st.dictionaries(st.text(max_size=6), st.integers(0, 5), max_size=5), min_size=1, max_size=4),
)
def test_what_is_put_comes_back(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list[int], rounds: list[dict[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = ArrayStore(folder, dtype=dtype, row_shape=shape)
    random = np.random.default_rng(0)
    expected: dict[str, np.ndarray] = {}
    for said in rounds:
        arrays = {key: random.normal(size=(n, *shape)).astype(dtype) for key, n in said.items()}
        store.add(list(arrays), list(arrays.values()))
        expected = {**arrays, **expected}  # what is there stays
    for opened in (store, ArrayStore(folder, dtype=dtype, row_shape=shape)):
        assert len(opened) == len(expected)
        for key, array in expected.items():
            got = opened.get(key)
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)
        keys = list(expected)
        assert opened.lengths(keys).tolist() == [len(expected[key]) for key in keys]
        assert opened.missing([*keys, "absent!!", "absent!!"]) == ["absent!!"]


def test_a_store_of_empty_arrays_alone(tmp_path: Path) -> None:
    store = new(tmp_path / "s")
    store.add(["nothing"], [block(0, 0)])
    assert store.get("nothing").shape == (0, 3)


def test_arrays_outlive_the_store_and_are_copies(tmp_path: Path) -> None:
    store = new(tmp_path / "s")
    store.add(["a"], [block(1, 2)])
    got = store.get("a")
    got[:] = 0
    np.testing.assert_array_equal(store.get("a"), block(1, 2))


def test_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        new(tmp_path / "s").get("x")


def test_rows_of_another_shape_change_nothing(tmp_path: Path) -> None:
    store = new(tmp_path / "s")
    store.add(["a"], [block(1, 2)])
    with pytest.raises(ValueError, match="do not fit"):
        store.add(["b", "c"], [block(2, 1), block(3, 1, width=4)])
    assert store.missing(["b", "c"]) == ["b", "c"]
    store.add(["d"], [block(4, 3)])
    np.testing.assert_array_equal(store.get("a"), block(1, 2))
    np.testing.assert_array_equal(store.get("d"), block(4, 3))


def test_another_form_is_refused(tmp_path: Path) -> None:
    new(tmp_path / "s").add(["a"], [block(1, 2)])
    with pytest.raises(CotuneError, match="another form; delete that folder"):
        ArrayStore(tmp_path / "s", dtype="float32", row_shape=(3,))
    assert store_settings(tmp_path / "s") == {"dtype": "|u1", "row_shape": [3]}


def test_full_store_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = new(tmp_path / "s", max_bytes=10)
    store.add(["a"], [block(1, 2)])
    with pytest.raises(StoreFullError, match="raise --cache-gb"):
        store.add(["b"], [block(2, 2)])
    assert "b" not in store
    store.add(["c"], [block(3, 1)])
    np.testing.assert_array_equal(store.get("a"), block(1, 2))
    np.testing.assert_array_equal(store.get("c"), block(3, 1))


def test_a_second_reader_learns_of_new_arrays(tmp_path: Path) -> None:
    one, two = new(tmp_path / "s"), new(tmp_path / "s")
    one.add(["a"], [block(1, 2)])
    assert "a" not in two
    two.refresh()
    np.testing.assert_array_equal(two.get("a"), block(1, 2))
    two.add(["a", "b"], [block(9, 2), block(2, 5)])
    one.refresh()
    np.testing.assert_array_equal(one.get("a"), block(1, 2))
    np.testing.assert_array_equal(one.get("b"), block(2, 5))


def _write_many(folder: str, who: int) -> None:
    store = ArrayStore(Path(folder), dtype="uint8", row_shape=(3,))
    for i in range(30):
        store.add([f"{who}-{i}", f"both-{i}"], [block(100 * who + i, i % 4), block(i, 2)])


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(str(tmp_path / "s"), who)) for who in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = new(tmp_path / "s")
    assert len(store) == 90
    for i in range(30):
        for who in (1, 2):
            np.testing.assert_array_equal(store.get(f"{who}-{i}"), block(100 * who + i, i % 4))
        np.testing.assert_array_equal(store.get(f"both-{i}"), block(i, 2))


def _write_until_killed(folder: str) -> None:
    store = ArrayStore(Path(folder), dtype="uint8", row_shape=(3,))
    for i in range(100_000):
        store.add([f"k{i}"], [block(i, 50)])


def test_a_killed_writer_leaves_no_wrong_data(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        writer = context.Process(target=_write_until_killed, args=(str(tmp_path / "s"),))
        writer.start()
        time.sleep(0.3)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(10)
        store = new(tmp_path / "s")
        assert len(store) > 0
        store.add(["after"], [block(7, 9)])
        for i in range(len(store) - 1):
            np.testing.assert_array_equal(store.get(f"k{i}"), block(i, 50))
        np.testing.assert_array_equal(store.get("after"), block(7, 9))


def test_bytes_without_an_index_are_overwritten(tmp_path: Path) -> None:
    store = new(tmp_path / "s")
    store.add(["a"], [block(1, 2)])
    with (tmp_path / "s" / "data.bin").open("ab") as file:
        file.write(b"left by a killed process")
    store.add(["b"], [block(2, 3)])
    again = new(tmp_path / "s")
    np.testing.assert_array_equal(again.get("b"), block(2, 3))
    assert (tmp_path / "s" / "data.bin").read_bytes()[6:15] == block(2, 3).tobytes()


def test_an_index_whose_data_is_lost_is_not_believed(tmp_path: Path) -> None:
    new(tmp_path / "s").add(["a", "b"], [block(1, 2), block(2, 4)])
    os.truncate(tmp_path / "s" / "data.bin", 6)
    store = new(tmp_path / "s")
    assert store.missing(["a", "b"]) == ["b"]
    store.add(["c"], [block(3, 9)])
    assert "b" not in new(tmp_path / "s"), "its place now holds another array"
    store.add(["b"], [block(2, 4)])
    again = new(tmp_path / "s")
    for key, array in {"a": block(1, 2), "b": block(2, 4), "c": block(3, 9)}.items():
        np.testing.assert_array_equal(again.get(key), array)


def filled(folder: Path) -> dict[str, np.ndarray]:
    arrays = {f"k{i}": block(i, 1 + i % 4) for i in range(40)}
    new(folder).add(list(arrays), list(arrays.values()))
    return arrays


@given(st.sampled_from(["data.bin", "index.sqlite", "store.json"]), st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_done_to_its_files_a_store_gives_no_wrong_array(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cache") / "s"
    arrays = filled(folder)
    content = bytearray((folder / name).read_bytes())
    how = data.draw(st.sampled_from(["bytes", "cut", "empty", "gone", "other"]))
    if how == "bytes":
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(1, 64))] = data.draw(st.binary(min_size=1, max_size=64))
    elif how == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif how == "other":
        content = bytearray(b"no database" * 100)
    (folder / name).write_bytes(b"" if how == "empty" else bytes(content))
    if how == "gone":
        (folder / name).unlink()
    try:
        store = new(folder)
    except CotuneError as error:  # settings of another form that can be read
        assert "delete that folder" in str(error) or "another form" in str(error)
        return
    missing = store.missing(list(arrays))
    for key in set(arrays) - set(missing):
        np.testing.assert_array_equal(store.get(key), arrays[key])
    store.add(missing, [arrays[key] for key in missing])
    again = new(folder)
    assert again.missing(list(arrays)) == []
    for key, array in arrays.items():
        np.testing.assert_array_equal(again.get(key), array)


def test_a_changed_bit_is_noticed_said_and_computed_again(tmp_path: Path) -> None:
    arrays = filled(tmp_path / "s")
    content = bytearray((tmp_path / "s" / "data.bin").read_bytes())
    content[7] ^= 1
    (tmp_path / "s" / "data.bin").write_bytes(bytes(content))
    store = new(tmp_path / "s")
    (key,) = store.missing(list(arrays))
    assert store.notes() == [f"note: 1 entry of the cache {tmp_path / 's'} is damaged, and computed again"]
    assert store.notes() == []
    store.add([key], [arrays[key]])
    again = new(tmp_path / "s")
    assert again.missing(list(arrays)) == again.notes() == []
    np.testing.assert_array_equal(again.get(key), arrays[key])


@pytest.mark.parametrize("name", ["index.sqlite", "store.json"])
def test_a_damaged_index_or_settings_begin_again(tmp_path: Path, name: str) -> None:
    filled(tmp_path / "s")
    (tmp_path / "s" / name).write_bytes(b"no database" * 100)
    store = new(tmp_path / "s")
    assert store.notes() == [f"note: the cache {tmp_path / 's'} was damaged; it begins again"]
    assert len(store) == 0
    store.add(["a"], [block(1, 2)])
    np.testing.assert_array_equal(new(tmp_path / "s").get("a"), block(1, 2))


def test_a_store_of_before_checksums_is_read_and_added_to(tmp_path: Path) -> None:
    new(tmp_path / "s").add(["a"], [block(1, 2)])
    with sqlite3.connect(tmp_path / "s" / "index.sqlite") as index:
        index.execute("ALTER TABLE places DROP COLUMN sum")
    store = new(tmp_path / "s")
    np.testing.assert_array_equal(store.get("a"), block(1, 2))
    store.add(["b"], [block(2, 3)])
    again = new(tmp_path / "s")
    assert again.missing(["a", "b"]) == []
    np.testing.assert_array_equal(again.get("b"), block(2, 3))


def test_two_processes_begin_a_damaged_store_again(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    (tmp_path / "s" / "index.sqlite").write_bytes(b"no database" * 100)
    test_two_processes_write_at_once(tmp_path)


def test_where_nothing_can_be_written_a_temporary_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    told: list[str] = []
    assert usable_root(tmp_path / "works", told.append) == tmp_path / "works"
    (tmp_path / "file").write_text("mine")
    root = usable_root(tmp_path / "file" / "cache", told.append)
    assert root.is_dir()
    assert usable_root(tmp_path / "file" / "cache", told.append) == root == usable_root(root, told.append)
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    other = usable_root(tmp_path, told.append)
    assert other.is_dir()
    assert other != root
    assert len(told) == 2
    assert "(Read-only file system); a temporary folder is used, and nothing is kept" in told[1]


def test_without_a_home_folder_the_cache_is_a_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("COTUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    root = default_root()
    told: list[str] = []
    assert root.is_dir()
    assert default_root() == root == usable_root(root, told.append) == usable_root(root, told.append)
    assert len(told) == 1
    assert "(there is no home folder); a temporary folder is used" in told[0]
    monkeypatch.setenv("COTUNE_CACHE", "~nobody-of-this-name/cache")
    assert default_root().is_dir()


def test_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new(tmp_path / "s")
    store.add(["a"], [block(1, 2)])
    real = Path.open

    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, _: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: Full(real(self, *args, **kwargs)))
    with pytest.raises(CotuneError, match="No space left on device; free some space"):
        store.add(["b"], [block(2, 2)])
    monkeypatch.undo()
    assert "b" not in new(tmp_path / "s")
    np.testing.assert_array_equal(new(tmp_path / "s").get("a"), block(1, 2))


def test_memory_is_given_back_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_RELEASE_AFTER", 100)
    store = new(tmp_path / "s")
    store.add(["a", "b"], [block(1, 50), block(2, 50)])
    for _ in range(5):
        np.testing.assert_array_equal(store.get("a"), block(1, 50))
        np.testing.assert_array_equal(store.get("b"), block(2, 50))


def test_eviction_takes_the_least_recently_used(tmp_path: Path) -> None:
    for i, name in enumerate(["old", "middle", "young"]):
        new(tmp_path / name).add(["a"], [block(i, 2000)])
        os.utime(tmp_path / name, (1000 + i, 1000 + i))
    (tmp_path / "something else").mkdir()
    (tmp_path / "something else" / "file").write_bytes(b"x" * 10**6)
    one = sum(f.stat().st_size for f in (tmp_path / "old").iterdir())
    assert evict(tmp_path, 10 * one) == []
    assert evict(tmp_path, int(2.5 * one)) == [tmp_path / "old"]
    assert evict(tmp_path, one // 2, keep=[tmp_path / "middle"]) == [tmp_path / "young"]
    assert (tmp_path / "middle").is_dir()
    assert (tmp_path / "something else").is_dir()


def test_opening_marks_a_store_as_used(tmp_path: Path) -> None:
    for i, name in enumerate(["old", "young"]):
        new(tmp_path / name).add(["a"], [block(i, 20_000)])
        os.utime(tmp_path / name, (1000 + i, 1000 + i))
    new(tmp_path / "old")
    assert evict(tmp_path, 100_000) == [tmp_path / "young"]


def test_a_store_evicted_while_in_use_begins_anew(tmp_path: Path) -> None:
    store = new(tmp_path / "s")
    store.add(["a"], [block(1, 2)])
    evict(tmp_path, 0)
    with pytest.raises(CotuneError, match="removed while in use"):
        store.get("a")
    other = new(tmp_path / "s")
    other.add(["b"], [block(2, 9)])
    store.add(["c"], [block(3, 5)])
    assert store.missing(["a", "b", "c"]) == ["a"]
    np.testing.assert_array_equal(store.get("b"), block(2, 9))
    np.testing.assert_array_equal(new(tmp_path / "s").get("c"), block(3, 5))


def test_index_is_read_only_where_it_is_new(tmp_path: Path) -> None:
    store = new(tmp_path / "s")
    store.add(["a", "b"], [block(1, 2), block(2, 2)])
    with sqlite3.connect(tmp_path / "s" / "index.sqlite") as index:
        assert index.execute("SELECT max(number) FROM places").fetchone()[0] == store._seen == 2


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_root() == Path(os.environ["COTUNE_CACHE"])
    monkeypatch.delenv("COTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "cotune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "cotune"


def test_a_cache_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CotuneError, match="cannot use the cache .*--cache"):
        new(tmp_path / "file" / "s")


def test_files_that_vanish_while_sizes_are_taken_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        new(tmp_path / name).add(["a"], [block(1, 2000)])
    real = Path.stat

    def gone(self: Path, **more: bool) -> os.stat_result:
        if self.name == "index.sqlite-journal":
            raise FileNotFoundError(2, "No such file or directory")
        return real(self, **more)

    (tmp_path / "one" / "index.sqlite-journal").write_text("x")
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "stat", gone)
    assert evict(tmp_path, 10**9) == []
    assert set(evict(tmp_path, 0)) == {tmp_path / "one", tmp_path / "two"}


def test_a_store_that_another_process_began_anew_is_not_misread(tmp_path: Path) -> None:
    mine = new(tmp_path / "s")
    mine.add(["a"], [block(1, 4)])
    again = new(tmp_path / "s")  # knows the places, and has not read yet
    shutil.rmtree(tmp_path / "s")
    new(tmp_path / "s").add(["other"], [block(2, 9)])
    with pytest.raises(CotuneError, match="removed while in use"):
        again.get("a")
