from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from cotune.errors import ConfigError, CotuneError, DataError
from cotune.scale.storage import Storage, fetched, find_files, full_name, refuse_remote


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> str:
    return str(tmp_path / "out") if request.param == "local" else memory


def test_what_is_written_is_read_listed_and_removed(folder: str) -> None:
    storage = Storage(folder)
    assert storage.sizes() == {}
    storage.write("a.json", b"12")
    storage.write("a.json", b"123")
    with storage.file("b.bin") as path:
        path.write_bytes(b"x" * 10)
    assert storage.sizes() == {"a.json": 3, "b.bin": 10}
    assert storage.read("a.json") == b"123"
    storage.remove("a.json")
    assert storage.sizes() == {"b.bin": 10}


def test_a_file_that_fails_half_way_does_not_appear(folder: str) -> None:
    storage = Storage(folder)
    storage.write("b.bin", b"before")
    with pytest.raises(ValueError, match="half way"), storage.file("b.bin") as path:
        path.write_bytes(b"half")
        raise ValueError("half way")
    assert storage.sizes() == {"b.bin": 6}


def test_files_are_found_at_any_depth_in_order_and_fetched(folder: str) -> None:
    fs, path = fsspec.core.url_to_fs(folder)
    for name in ("b/2.csv", "a.csv", "b/1.csv"):
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", name.encode())
    found = find_files(folder)
    assert [(name, size) for name, _, size in found] == [("a.csv", 5), ("b/1.csv", 7), ("b/2.csv", 7)]
    with fetched(found[1][1]) as local:
        assert local.read_bytes() == b"b/1.csv"
    assert find_files(found[2][1]) == [("2.csv", found[2][1], 7)]


def test_nothing_there_is_one_line(folder: str) -> None:
    with pytest.raises(DataError, match="does not exist; check the"):
        find_files(f"{folder}/nowhere")


def test_names_mean_the_same_to_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_name("posts/a.csv") == str(tmp_path / "posts/a.csv")
    assert full_name(f"file://{tmp_path}/a.csv") == str(tmp_path / "a.csv")
    assert full_name("s3://bucket/posts/") == "s3://bucket/posts"


def test_urls_have_to_be_allowed() -> None:
    refuse_remote("/somewhere", False)
    refuse_remote("file:///somewhere", False)
    refuse_remote("s3://bucket/posts", True)
    with pytest.raises(ConfigError, match="--allow-remote"):
        refuse_remote("s3://bucket/posts", False)


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[s3\]'"):
        Storage("s3://bucket").sizes()


def test_s3_reads_and_writes(s3_server: str) -> None:
    storage = Storage("s3://posts/some/folder")
    storage.write("a.bin", b"123")
    assert storage.sizes() == {"a.bin": 3}
    assert find_files("s3://posts/some") == [("folder/a.bin", "s3://posts/some/folder/a.bin", 3)]
    with fetched("s3://posts/some/folder/a.bin") as path:
        assert path.read_bytes() == b"123"


@pytest.mark.parametrize("act", [lambda url: find_files(url), lambda url: Storage(url).write("a", b"1")])
def test_a_bucket_that_does_not_exist(s3_server: str, act: object) -> None:
    with pytest.raises(DataError, match="s3://nowhere/posts.* does not exist; check the bucket") as raised:
        act("s3://nowhere/posts")  # type: ignore[operator]
    assert "\n" not in str(raised.value)
    assert not fsspec.filesystem("s3").exists("nowhere")


def test_credentials_that_are_missing_are_named(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and name.endswith(("KEY", "KEY_ID"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(ConfigError, match="no credentials for s3://posts; set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        find_files("s3://posts")
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(CotuneError, match="cannot be reached"):
        find_files("s3://posts")
    fsspec.filesystem("s3").clear_instance_cache()
