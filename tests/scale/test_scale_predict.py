from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.cli import main
from cotune.data.posts import ColumnNames
from cotune.errors import CotuneError, RunError
from cotune.scale import Reading, Scoring, Workers, predict
from cotune.scale.manifest import FILE, SUCCESS
from cotune.scale.scoring import BlockDone, BlockScorer, Model
from cotune.scale.shards import Block, ShardEnd, list_shards, read_blocks
from cotune.scale.storage import Storage

pytestmark = pytest.mark.ray
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

SCORING = Scoring(engine="onnx", chunk_size=4, batch_size=4)
READING = Reading(ColumnNames(), block_rows=4)


def scored(model: Path, posts: Path | str, out: Path | str, **more: Any) -> dict[str, Any]:
    how = {"scoring": SCORING, "reading": READING, "workers": Workers(concurrency=1), **more}
    return predict(model, posts, out, **how)  # one worker starts faster than two


def rows_of(out: Path) -> pd.DataFrame:
    """Return the parts that the manifest names, in order; each has to be as it says."""
    parts = []
    for block in json.loads((out / FILE).read_text())["blocks"]:
        part = pd.read_parquet(out / block["file"])
        assert len(part) == block["rows"]
        parts.append(part)
    assert len(parts) == len(list(out.glob("part-*.parquet")))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def single(tiny_export: Path, shards: Path, tmp_path: Path) -> pd.DataFrame:
    """What a single process gives for each shard, one after another."""
    tables = []
    for shard in sorted(shards.glob("*.*")):
        out = tmp_path / f"{shard.stem}.parquet"
        words = ["--engine", "onnx", "--chunk-size", "4", "--batch-size", "4"]
        assert main(["predict", str(tiny_export), str(shard), "--out", str(out), *words]) == 0
        tables.append(pd.read_parquet(out))
    return pd.concat(tables, ignore_index=True)


def same_rows(found: pd.DataFrame, single: pd.DataFrame) -> None:
    assert list(found) == list(single)
    assert list(found.dtypes) == list(single.dtypes)
    # An engine's threads add up in another order.
    pd.testing.assert_frame_equal(found, single, rtol=0, atol=1e-6)


def test_rows_and_numbers_are_those_of_a_single_process(
    ray_cluster: None, tiny_export: Path, shards: Path, single: pd.DataFrame, tmp_path: Path
) -> None:
    counts = scored(tiny_export, shards, tmp_path / "out", workers=Workers(concurrency=2))
    same_rows(rows_of(tmp_path / "out"), single)
    assert (tmp_path / "out" / SUCCESS).exists()
    assert (counts["posts"], counts["predicted"], counts["errors"]) == (24, 22, 2)
    assert sum(counts["labels"].values()) == 22
    assert counts["first_errors"][0]["shard"] == "a.csv"
    assert counts["first_errors"][0]["row"] == 8
    manifest = json.loads((tmp_path / "out" / FILE).read_text())
    assert [block["rows"] for block in manifest["blocks"]] == [4, 4, 2, 4, 4, 2, 4]
    assert manifest["posts"]["rows"] == 24


def test_known_images_are_found_by_workers_too(
    ray_cluster: None, tiny_export: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    (tmp_path / "known").mkdir()
    for place in (tmp_path / "known" / "meme.png", shards / "images" / "12.png"):
        Image.fromarray(blocks).resize((400, 300), Image.Resampling.BICUBIC).save(place)
    hashes = str(tmp_path / "hashes.csv")
    assert main(["hashes", str(tmp_path / "known"), "--out", hashes]) == 0
    out = tmp_path / "out"
    words = ["predict", str(tiny_export), str(shards), "--out", str(out), "--cluster", "ray", "--concurrency", "1",
             "--engine", "onnx", "--known", hashes]  # fmt: skip
    capfd.readouterr()
    assert main([*words, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["known"] == 1
    found = rows_of(out)
    assert found["known"].dropna().to_dict() == {12: "meme.png"}
    assert found["known_distance"][12] == 0
    assert main([*words, "--resume"]) == 0  # finished already
    assert "1 post with a known image" in capfd.readouterr().err
    assert main([*words, "--known-distance", "2", "--resume"]) == 2
    assert "was begun with another known" in capfd.readouterr().err


def test_a_stopped_job_goes_on_and_one_of_other_posts_is_refused(
    ray_cluster: None, tiny_export: Path, shards: Path, single: pd.DataFrame, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from cotune.scale.manifest import Manifest

    out, add, added = tmp_path / "out", Manifest.add, []

    def stopping(self: Manifest, found: Any) -> None:
        add(self, found)
        added.append(found)
        if len(added) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        scored(tiny_export, shards, out)
    assert not (out / SUCCESS).exists()
    before = {block["file"]: (out / block["file"]).stat().st_mtime_ns
              for block in json.loads((out / FILE).read_text())["blocks"]}  # fmt: skip
    assert before
    added.clear()
    monkeypatch.setattr(Manifest, "add", lambda self, found: (add(self, found), added.append(found))[0])
    scored(tiny_export, shards, out, resume=True)
    same_rows(rows_of(out), single)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert len([each for each in added if hasattr(each, "file")]) == 7 - len(before)
    assert scored(tiny_export, shards, out, resume=True)["posts"] == 24  # nothing to do
    (shards / "c.jsonl").write_text('{"id": "1", "text": "another"}\n')
    with pytest.raises(RunError, match=r"begun with other posts \(c\.jsonl"):
        scored(tiny_export, shards, out, resume=True)


def test_killed_workers_lose_nothing_and_repeat_nothing(
    ray_cluster: None, tiny_export: Path, shards: Path, single: pd.DataFrame, tmp_path: Path
) -> None:
    import psutil

    out, killed, stop = tmp_path / "out", [], threading.Event()

    def kill_one() -> None:
        while not stop.wait(0.02):
            if not list(out.glob("part-*")):
                continue
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "MapWorker" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        return

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        scored(tiny_export, shards, out, reading=Reading(ColumnNames(), block_rows=1),
               scoring=Scoring(engine="onnx", chunk_size=1, batch_size=4))  # fmt: skip
    finally:
        stop.set()
        thread.join()
    assert killed
    same_rows(rows_of(out), single)


def test_corrupt_shards_carry_their_error_and_the_job_ends_well(
    ray_cluster: None, tiny_export: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shards / "b.parquet").write_bytes(b"PAR1 but not really")
    with (shards / "c.jsonl").open("a") as file:
        file.write('{"id": "p24", "te')
    out = tmp_path / "out"
    words = ["--engine", "onnx", "--chunk-size", "4", "--block-rows", "4", "--cluster", "ray", "--concurrency", "1"]
    assert main(["predict", str(tiny_export), str(shards), "--out", str(out), "--json", *words]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["posts"], counts["unreadable_shards"], counts["shards"]) == (14, 2, 3)
    found = rows_of(out)
    assert len(found) == 16
    broken = found[found["id"] == "b.parquet"].iloc[0]
    assert "not a readable Parquet file" in broken["error"]
    assert broken.drop(["id", "error"]).isna().all()
    assert "line 5: not valid JSON" in found[found["id"] == "c.jsonl"].iloc[0]["error"]
    assert (out / SUCCESS).exists()


def test_posts_images_and_predictions_by_url(
    s3_server: str, ray_cluster: None, tiny_export: Path, shards: Path, single: pd.DataFrame, tmp_path: Path
) -> None:
    s3 = fsspec.filesystem("s3")
    s3.put(str(shards), "posts/in", recursive=True)
    found = scored(tiny_export, "s3://posts/in", "s3://posts/out",
                   scoring=Scoring(engine="onnx", chunk_size=4, batch_size=4, allow_remote=True))  # fmt: skip
    assert found["predicted"] == 22
    s3.get("posts/out", str(tmp_path / "got"), recursive=True)
    same_rows(rows_of(tmp_path / "got").drop(columns="error"), single.drop(columns="error"))
    assert (tmp_path / "got" / SUCCESS).exists()


def test_a_run_that_was_not_exported(zoo: Any, shards: Path, single: pd.DataFrame, tmp_path: Path) -> None:
    from cotune.run import save_run
    from explained import random_run

    save_run(tmp_path / "run", random_run(zoo, classes=2))
    scoring = Scoring(engine="torch", chunk_size=4, batch_size=4)
    scorer = BlockScorer(Model(tmp_path / "run", ""), scoring, Storage(str(tmp_path / "out")), threads=1)
    (shard, *_) = list_shards(str(shards))
    found = [scorer(item) for item in read_blocks(READING, shard)]
    assert found[-1] == ShardEnd(0, 3, 10)
    parts = [pd.read_parquet(tmp_path / "out" / each.file) for each in found if isinstance(each, BlockDone)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), single.iloc[:10], rtol=0, atol=1e-4)


def test_a_model_is_unpacked_where_its_folder_is_not(tiny_export: Path, tmp_path: Path, cache: Path) -> None:
    from cotune.export.choose import identity_of
    from cotune.scale import scoring
    from cotune.scale.scoring import files_of

    files = files_of(tiny_export)
    model = Model(Path("/nowhere"), identity_of(tiny_export), "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "get", lambda reference: files)
        folder = model.here()
        assert folder.is_relative_to(cache)
        assert files_of(folder) == files
        patch.setattr(scoring, "get", lambda reference: pytest.fail("unpacked twice"))
        assert model.here() == folder
    assert Model(tiny_export, model.identity, "reference").here() == tiny_export


def test_a_block_is_written_whole_or_not_at_all(tiny_export: Path, tmp_path: Path) -> None:
    out = Storage(str(tmp_path / "out"))
    scorer = BlockScorer(Model(tiny_export, ""), SCORING, out, threads=1)
    scorer.scorer.stream = lambda chunks: (_ for _ in ()).throw(RuntimeError("half way"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        scorer(Block(0, 0, pd.DataFrame({"id": ["a"]})))
    assert out.sizes() == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["s3://posts/in", "--out", "out", "--cluster", "ray"],
            "is a URL; allow reading and writing by URL with --allow",
        ),
        (["in.csv", "--out", "s3://posts/out", "--cluster", "ray"], "is a URL; allow reading"),
        (["s3://posts/in.csv", "--out", "out.csv"], "is a URL, which --cluster ray --allow-remote reads"),
        (["-", "--out", "out", "--cluster", "ray"], "--cluster ray scores a table or a folder of tables"),
        (["in.csv", "--out", "out.csv", "--concurrency", "2"], "--concurrency describes the workers of a cluster"),
        (["nowhere", "--out", "out", "--cluster", "ray"], "nowhere does not exist; check the path"),
    ],
)
def test_bad_usage_is_one_line(
    tiny_export: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(tiny_export), "--engine", "onnx", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_output_goes_into_the_folder_of_the_posts(shards: Path, tiny_export: Path) -> None:
    before = sorted(shards.rglob("*"))
    for out in (shards, shards / "out", f"{shards}/deep/out/"):
        with pytest.raises(CotuneError, match="is within the folder of the posts"):
            predict(tiny_export, shards, out, scoring=Scoring(device="cpu"))
    assert sorted(shards.rglob("*")) == before


def test_no_room_is_refused_before_anything_waits(
    ray_cluster: None, tiny_export: Path, shards: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(CotuneError, match="room for no worker with 64 CPUs"):
        scored(tiny_export, shards, tmp_path / "out", workers=Workers(num_cpus=64))
    assert time.monotonic() - started < 10
