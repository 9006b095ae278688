from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cotune.errors import CotuneError, RunError
from cotune.scale.manifest import FILE, SUCCESS, Manifest
from cotune.scale.scoring import BlockDone
from cotune.scale.shards import Shard, ShardEnd
from cotune.scale.storage import Storage

SHARDS = [Shard(0, "a.csv", "/a.csv", 10, "aa"), Shard(1, "b.csv", "/b.csv", 10, "bb")]


@pytest.fixture(params=["local", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Storage:
    return Storage(str(tmp_path / "out") if request.param == "local" else memory)


def manifest(out: Storage, *, run: str = "run", shards: list[Shard] = SHARDS, **settings: Any) -> Manifest:
    return Manifest(out, run, {"chunk_size": 512, **settings}, shards)


def block(out: Storage, shard: int, number: int, engine: str = "onnx 1") -> BlockDone:
    name = f"part-{shard:05}-{number:06}.parquet"
    out.write(name, b"123")
    return BlockDone(shard, number, name, 3, "cc", 4, 3, 1, {"x": 3}, engine)


def half_done(out: Storage) -> Manifest:
    job = manifest(out)
    job.begin(resume=False)
    for done in (block(out, 0, 0), block(out, 0, 1), ShardEnd(0, 2, 8), block(out, 1, 1)):
        job.add(done)
    job.save()
    return job


def test_what_is_done_is_not_to_do_again(out: Storage) -> None:
    half_done(out)
    again = manifest(out)
    again.begin(resume=True)
    assert again.todo() == [(SHARDS[1], frozenset({1}))]
    again.add(block(out, 1, 0))
    again.add(ShardEnd(1, 2, 8))
    again.finish()
    assert again.finished
    assert out.sizes()[SUCCESS] == 0
    assert again.counts()["posts"] == 16
    assert again.counts()["labels"] == {"x": 12}
    kept = json.loads(out.read(FILE))
    assert [entry["file"] for entry in kept["blocks"]] == sorted(name for name in out.sizes() if "part" in name)


def test_a_job_that_is_not_finished_is_not_called_a_success(out: Storage) -> None:
    with pytest.raises(CotuneError, match=r"blocks of b\.csv were not answered"):
        half_done(out).finish()
    assert SUCCESS not in out.sizes()


def test_a_block_whose_file_is_gone_or_cut_is_done_again(out: Storage) -> None:
    half_done(out)
    out.remove("part-00000-000000.parquet")
    out.write("part-00001-000001.parquet", b"1")
    again = manifest(out)
    again.begin(resume=True)
    assert again.todo() == [(SHARDS[0], frozenset({1})), (SHARDS[1], frozenset())]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"run": "another"}, r"was begun with another run \(hash run, now another\)"),
        (
            {"shards": [SHARDS[0], Shard(1, "b.csv", "/b.csv", 10, "changed")]},
            r"begun with other posts \(b\.csv: other",
        ),
        ({"shards": SHARDS[:1]}, r"begun with other posts \(b\.csv"),
        ({"chunk_size": 64}, r"begun with another chunk-size \(512, now 64\)"),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_a_manifest_of_something_else_is_refused(
    out: Storage, other: dict[str, Any], message: str, resume: bool
) -> None:
    half_done(out)
    with pytest.raises(RunError, match=message):
        manifest(out, **other).begin(resume=resume)


def test_finished_blocks_are_not_touched_without_resume(out: Storage) -> None:
    half_done(out)
    with pytest.raises(RunError, match="holds 3 finished blocks; go on with --resume"):
        manifest(out).begin(resume=False)


def test_a_job_that_was_stopped_before_its_first_block_binds_nobody(out: Storage) -> None:
    manifest(out).begin(resume=False)
    manifest(out, run="another").begin(resume=False)
    assert json.loads(out.read(FILE))["run"] == "another"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SUCCESS, b"", "files that are in no manifest"),
        ("part-0.parquet", b"", "files that are in no manifest"),
        ("config.json", b"{}", "files that are in no manifest"),
        ("1.jpg", b"", "files that are in no manifest"),
        (FILE, b"{}", "was not written by cotune"),
        (FILE, b"{", "is damaged"),
    ],
)
def test_files_of_somebody_else_are_not_replaced(out: Storage, name: str, content: bytes, message: str) -> None:
    out.write(name, content)
    with pytest.raises(RunError, match=message):
        manifest(out).begin(resume=True)
    assert out.sizes() == {name: len(content)}


def test_workers_of_different_engines_do_not_mix(out: Storage) -> None:
    with pytest.raises(RunError, match="begun with onnx 1, a worker has onnx 2"):
        half_done(out).add(block(out, 1, 0, engine="onnx 2"))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["run"], None, "damaged .run"),
        (["format"], "1", "damaged .format"),
        (["posts"], {}, "damaged .posts.shards"),
        (["posts", "shards", 0, "sha256"], None, "damaged .posts.shards.0.sha256"),
        (["posts", "shards", 0, "blocks"], None, "damaged .posts.shards.0"),
        (["blocks", 0, "file"], 3, "damaged .blocks.0.file"),
        (["blocks", 0, "more"], 3, "damaged .blocks.0.more"),
        (["blocks", 0, "shard"], 7, "damaged"),
        (["blocks", 0], [], "damaged .blocks.0"),
        (["settings"], 3, "damaged .settings"),
        (["engine"], None, "damaged"),
    ],
)
def test_a_manifest_of_another_form_is_named(tmp_path: Path, place: list[Any], value: Any, words: str) -> None:
    out = Storage(str(tmp_path / "out"))
    half_done(out)
    found = json.loads(out.read(FILE))
    inner: Any = found
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    out.write(FILE, json.dumps(found).encode())
    with pytest.raises(RunError, match=words):
        manifest(out).begin(resume=True)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b'{"format": ' + b"9" * 5_000 + b"}"])
def test_a_manifest_that_python_cannot_hold_is_named(tmp_path: Path, content: bytes) -> None:
    out = Storage(str(tmp_path / "out"))
    out.write(FILE, content)
    with pytest.raises(RunError, match="is damaged"):
        manifest(out).begin(resume=True)
