"""The manifest of a folder of predictions: what was scored, by which run, and which blocks are done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, model_validator

from cotune._version import __version__
from cotune.errors import CotuneError, RunError, clip, listed
from cotune.files import parse_json, to_json
from cotune.ownership import PARTITIONS
from cotune.scale.scoring import BlockDone
from cotune.scale.shards import Shard, ShardEnd
from cotune.scale.storage import Storage

FILE, SUCCESS = "manifest.json", "_SUCCESS"
_FORMAT = 1
#: Seconds between two writings: what was finished in between is scored again after a crash of the whole job.
_EVERY = 3.0
_SHOWN = 5


class _Shard(BaseModel):
    name: str
    sha256: str
    blocks: NonNegativeInt | None
    rows: NonNegativeInt | None
    error: str | None

    @model_validator(mode="after")
    def _check(self) -> _Shard:
        if (self.blocks is None) != (self.rows is None):
            raise ValueError("blocks without rows, or rows without blocks")
        return self


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shard: NonNegativeInt
    block: NonNegativeInt
    file: str
    bytes: NonNegativeInt
    sha256: str
    rows: NonNegativeInt
    predicted: NonNegativeInt
    errors: NonNegativeInt
    labels: dict[str, NonNegativeInt]
    unreadable: bool = False
    known: NonNegativeInt | None = None
    first_errors: list[dict[str, Any]] = []


class _Posts(BaseModel):
    shards: list[_Shard]


class _Written(BaseModel):
    """What of a manifest is relied on when a job goes on."""

    model_config = ConfigDict(strict=True)

    format: int
    run: str
    engine: str | None
    settings: dict[str, Any]
    posts: _Posts
    blocks: list[_Block]

    @model_validator(mode="after")
    def _check(self) -> _Written:
        if any(block.shard >= len(self.posts.shards) for block in self.blocks):
            raise ValueError("blocks of a shard that there is not")
        if self.blocks and self.engine is None:
            raise ValueError("blocks, but no engine")
        return self


class Manifest:
    """What is done of a job, kept in its folder.

    Parameters
    ----------
    out : Storage
        The folder.
    run : str
        The hash of the run.
    settings : mapping
        What else decides what the predictions are.
    shards : sequence of Shard
        The posts.
    """

    def __init__(self, out: Storage, run: str, settings: Mapping[str, Any], shards: Sequence[Shard]) -> None:
        self.out, self.run, self.shards = out, run, list(shards)
        self.settings = {name: str(value) for name, value in settings.items()}
        self.engine: str | None = None
        self.blocks: dict[tuple[int, int], BlockDone] = {}
        self.ends: dict[int, ShardEnd] = {}
        self._written = 0.0

    def begin(self, *, resume: bool) -> None:
        """Make the folder that of this job, or go on with what is done in it.

        Raises
        ------
        RunError
            If it holds something else: predictions of other posts, of another run or by other settings, or files of
            somebody else.
        """
        there = self.out.sizes()
        before = self._read(there)
        if before is None:
            foreign = [name for name in there if name and not name.startswith(".")]
            if foreign:
                raise RunError(f"{self.out.url} holds files that are in no manifest ({listed(foreign, most=3)}); "
                               "choose another folder")  # fmt: skip
        elif before["blocks"]:
            self._refuse_other(before)
            if not resume:
                raise RunError(f"{self.out.url} holds {len(before['blocks']):,} finished blocks; go on with --resume, "
                               "or choose another folder")  # fmt: skip
            self._take(before, there)
        if SUCCESS in there and not self.finished:
            self.out.remove(SUCCESS)
        self.save()

    def _read(self, there: Mapping[str, int]) -> dict[str, Any] | None:
        if FILE not in there:
            return None
        where = f"{self.out.url}/{FILE}"
        try:
            found = parse_json(self.out.read(FILE), where)
        except CotuneError as error:
            raise RunError(f"{where} is damaged ({error}); choose another folder") from error
        if not PARTITIONS.wrote(FILE, found):
            raise RunError(f"{where} was not written by {PARTITIONS.command}; choose another folder")
        if isinstance(found.get("format"), int) and found["format"] > _FORMAT:
            raise RunError(f"{where} was written by cotune {found.get('cotune')}, which is newer; update cotune")
        try:
            _Written.model_validate(found)
        except ValidationError as error:
            wrong = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunError(f"{where} is damaged ({clip(wrong)}); choose another folder") from error
        return dict(found)

    def _refuse_other(self, before: Mapping[str, Any]) -> None:
        where = self.out.url
        if before["run"] != self.run:
            raise RunError(f"{where} was begun with another run (hash {before['run'][:12]}, now {self.run[:12]}); give "
                           "the same run or another folder")  # fmt: skip
        old = {shard["name"]: shard["sha256"] for shard in before["posts"]["shards"]}
        new = {shard.name: shard.sha256 for shard in self.shards}
        if old != new:
            changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            raise RunError(f"{where} was begun with other posts ({listed(changed, most=3)}: other hashes); give the "
                           "same posts or another folder")  # fmt: skip
        differing = [
            f"{name.replace('_', '-')} ({clip(str(before['settings'].get(name)), 40)}, now {clip(value, 40)})"
            for name, value in self.settings.items()
            if before["settings"].get(name) != value
        ]
        if differing:
            raise RunError(
                f"{where} was begun with another {', another '.join(differing)}; use the same, or another folder"
            )

    def _take(self, before: Mapping[str, Any], there: Mapping[str, int]) -> None:
        """Take over what is done; a block whose file is gone, or has another size, is not."""
        self.engine = before["engine"]
        for number, shard in enumerate(before["posts"]["shards"]):
            if shard["blocks"] is not None:
                self.ends[number] = ShardEnd(number, shard["blocks"], shard["rows"], shard["error"])
        for entry in before["blocks"]:
            if there.get(entry["file"]) == entry["bytes"]:
                self._add_block(BlockDone(engine=before["engine"], **entry))

    def done(self, shard: int) -> frozenset[int]:
        """Return the blocks of a shard that are done."""
        return frozenset(block for of, block in self.blocks if of == shard)

    def todo(self) -> list[tuple[Shard, frozenset[int]]]:
        """Return the shards that are not done, each with those of its blocks that are."""
        done = {number: set[int]() for number in range(len(self.shards))}
        for shard, block in self.blocks:
            done[shard].add(block)
        return [
            (shard, frozenset(done[shard.number]))
            for shard in self.shards
            if shard.number not in self.ends or len(done[shard.number]) < self.ends[shard.number].blocks
        ]

    @property
    def finished(self) -> bool:
        """Whether every block of every shard is done."""
        return not self.todo()

    def add(self, found: BlockDone | ShardEnd) -> None:
        """Note what a worker has finished.

        Raises
        ------
        RunError
            If it was scored by another engine than the rest.
        """
        if isinstance(found, ShardEnd):
            self.ends[found.shard] = found
        else:
            if self.engine not in (None, found.engine):
                raise RunError(f"{self.out.url} was begun with {self.engine}, a worker has {found.engine}, whose "
                               "numbers differ; give all workers the same, or choose another folder")  # fmt: skip
            self._add_block(found)
        if time.monotonic() - self._written > _EVERY:
            self.save()

    def _add_block(self, found: BlockDone) -> None:
        self.engine = found.engine
        self.blocks[found.shard, found.block] = found

    def save(self) -> None:
        """Write the manifest."""
        self.out.write(FILE, (to_json(self.to_dict(), indent=1) + "\n").encode())
        self._written = time.monotonic()

    def finish(self) -> None:
        """Write the manifest for the last time, and the file that says that everything is there.

        Raises
        ------
        CotuneError
            If not everything is.
        """
        self.save()
        missing = [shard.name for shard, _ in self.todo()]
        if missing:
            raise CotuneError(f"blocks of {listed(missing, most=3)} were not answered; go on with --resume")
        self.out.write(SUCCESS, b"")

    def to_dict(self) -> dict[str, Any]:
        """Return what is written."""
        shards = []
        for shard in self.shards:
            end = self.ends.get(shard.number)
            known = {"blocks": end and end.blocks, "rows": end and end.rows, "error": end and end.error}
            shards.append({"name": shard.name, "bytes": shard.bytes, "sha256": shard.sha256, **known})
        blocks = [asdict(self.blocks[at]) for at in sorted(self.blocks)]
        for block in blocks:
            del block["engine"]
        return {
            **PARTITIONS.mark(),
            "format": _FORMAT,
            "cotune": __version__,
            "run": self.run,
            "engine": self.engine,
            "settings": self.settings,
            "posts": {"rows": sum(end.rows for end in self.ends.values()), "shards": shards},
            "blocks": blocks,
        }

    def counts(self) -> dict[str, Any]:
        """Return posts, predictions, labels and errors so far, as `cotune predict` reports them."""
        blocks = [self.blocks[at] for at in sorted(self.blocks)]
        labels: Counter[str] = Counter()
        for block in blocks:
            labels.update(block.labels)
        first = [
            {"shard": self.shards[block.shard].name, **error}
            for block in sorted(blocks, key=lambda block: not block.unreadable)
            for error in block.first_errors
        ]
        found = [block.known for block in blocks if block.known is not None]
        return {
            "posts": sum(block.rows for block in blocks if not block.unreadable),
            "predicted": sum(block.predicted for block in blocks),
            "labels": dict(sorted(labels.items())),
            **({"known": sum(found)} if found else {}),
            "errors": sum(block.errors for block in blocks),
            "first_errors": first[:_SHOWN],
            "shards": len(self.shards),
            "unreadable_shards": sum(block.unreadable for block in blocks),
        }
