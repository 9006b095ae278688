"""The manifest of predictions in parts (`predict --cluster --resume`)."""

from __future__ import annotations

import json
from pathlib import Path

from cotune.scale.manifest import FILE, Manifest
from cotune.scale.scoring import BlockDone
from cotune.scale.shards import Shard, ShardEnd
from cotune.scale.storage import Storage

WORDS = ('"blocks"', '"shards"', '"posts"', '"engine"', '"settings"', '"format"', '"run"', '"sha256"', '"file"', '"bytes"',
         '"rows"', '"error"', '"written_by"', "null", "[]", "{}", "-1", "1e99", "true", '"0"')  # fmt: skip
_SHARDS = [Shard(0, "a.csv", "/a.csv", 10, "aa"), Shard(1, "b.csv", "/b.csv", 10, "bb")]
_PART = "part-00000-000000.parquet"


def _manifest(folder: Path) -> Manifest:
    return Manifest(Storage(str(folder)), "run", {"chunk_size": 4}, _SHARDS)


def seeds() -> list[bytes]:
    """Return manifests of jobs at several stages."""
    job = _manifest(Path())
    found = [json.dumps(job.to_dict())]
    job.blocks[0, 0] = BlockDone(0, 0, _PART, 3, "cc", 4, 3, 1, {"x": 3}, "onnx 1")
    job.engine = "onnx 1"
    found.append(json.dumps(job.to_dict()))
    job.ends[0] = ShardEnd(0, 1, 4)
    found.append(json.dumps(job.to_dict()))
    return [text.encode() for text in found]


def read(data: bytes, folder: Path) -> None:
    """Go on with the job that the manifest describes."""
    (folder / _PART).write_bytes(b"123")
    (folder / FILE).write_bytes(data)
    job = _manifest(folder)
    job.begin(resume=True)
    job.todo()
    json.dumps(job.to_dict())
    job.counts()
