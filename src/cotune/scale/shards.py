"""Posts in many files: which there are, and what they hold, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from cotune.checksums import sha256
from cotune.data.posts import ColumnNames, iter_posts
from cotune.data.tables.read import KINDS
from cotune.data.tables.where import Where
from cotune.errors import DataError, NoPostsError, clip, listed
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.scale.storage import fetched, find_files, is_remote, open_url, storage_errors

_HASHED_AT_ONCE = 8


@dataclass(frozen=True)
class Shard:
    """One file of posts.

    Attributes
    ----------
    number : int
        Its place among all, counted from 0.
    name : str
        Its name below the folder that was given.
    url : str
        Path or URL.
    bytes : int
        Its size.
    sha256 : str
        The hash of its content.
    """

    number: int
    name: str
    url: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Reading:
    """How shards are read.

    Attributes
    ----------
    columns : ColumnNames
        What the columns are called.
    where : mapping or None
        Which rows count.
    kind : str or None
        The format, if the names do not tell.
    allow_outside : bool
        Whether images may lie outside of their shard's folder.
    block_rows : int
        The most rows of a block.
    """

    columns: ColumnNames
    where: Where | None = None
    kind: str | None = None
    allow_outside: bool = False
    block_rows: int = 2048


@dataclass(frozen=True)
class Block:
    """Some rows of a shard that follow one another; or, with an `error`, that the rest of it cannot be read."""

    shard: int
    number: int
    posts: pd.DataFrame
    error: str | None = None


@dataclass(frozen=True)
class ShardEnd:
    """What a shard turned out to hold: blocks, rows, and why it could not be read to its end, if so."""

    shard: int
    blocks: int
    rows: int
    error: str | None = None


def list_shards(posts: str, kind: str | None = None, progress: Progress | None = None) -> list[Shard]:
    """Return the shards at `posts`, a file or a folder of files at any depth, with their hashes.

    Hidden files and those whose name begins with an underscore (``_SUCCESS``) are none.

    Raises
    ------
    DataError
        If there is none.
    """
    found = find_files(posts)
    endings = (*KINDS, *(f"{ending}.gz" for ending in KINDS[:-2]))
    visible = [each for each in found if not any(part[0] in "._" for part in PurePosixPath(each[0]).parts)]
    if any(PurePosixPath(name).name == "state.json" for name, _, _ in visible):
        raise DataError(f"{clip(posts)} was written by Hugging Face datasets' save_to_disk; save it as .parquet files")
    single = len(found) == 1 and PurePosixPath(posts).name == found[0][0]
    fitting = found if single else [each for each in visible if kind or each[0].lower().endswith(endings)]
    if not fitting:
        raise DataError(f"{clip(posts)} holds no posts tables ({', '.join(KINDS)}); "
                        f"it holds {listed((name for name, _, _ in found), most=5) or 'nothing'}")  # fmt: skip
    if len(fitting) < len(visible) and progress is not None:
        out = len(visible) - len(fitting)
        are = "is no table and is" if out == 1 else "are no tables and are"
        progress.say(f"note: {plural(out, 'file')} of {clip(posts)} {are} left out")
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        hashes = pool.map(_hash, [url for _, url, _ in fitting])
        return [
            Shard(number, name, url, size, digest)
            for number, ((name, url, size), digest) in enumerate(zip(fitting, hashes, strict=True))
        ]


def _hash(url: str) -> str:
    fs, path = open_url(url)
    with storage_errors(url), fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_blocks(reading: Reading, shard: Shard, done: Collection[int] = ()) -> Iterator[Block | ShardEnd]:
    """Yield the blocks of a shard that are not `done`, and then its end.

    A shard that cannot be read, or not to its end, yields one block more, with the error; what was read before stays.

    Raises
    ------
    DataError
        If the shard's content is not what was hashed when the job began.
    """
    number = rows = 0
    error = None
    with fetched(shard.url) as path:
        if sha256(path) != shard.sha256:
            raise DataError(f"{clip(shard.url)} was changed while its posts were scored; start again")
        try:
            for posts in iter_posts(path, reading.block_rows, **_how(reading, shard)):
                if number not in done:
                    yield Block(shard.number, number, posts)
                number, rows = number + 1, rows + len(posts)
        except NoPostsError:  # of many shards some may be empty, or hold none of the rows that are asked for
            pass
        except DataError as fault:
            error = str(fault).replace(str(path), shard.url)
            if number not in done:
                yield Block(shard.number, number, pd.DataFrame({"id": [shard.name]}, dtype=object), error)
            number += 1
    yield ShardEnd(shard.number, number, rows, error)


def _how(reading: Reading, shard: Shard) -> dict[str, Any]:
    # Images named by relative paths lie beside the shard, wherever that is.
    base = shard.url.rpartition("/")[0] if is_remote(shard.url) else Path(shard.url).parent
    return {"columns": reading.columns, "where": reading.where, "kind": reading.kind, "base": base,
            "allow_outside": reading.allow_outside}  # fmt: skip


def first_posts(reading: Reading, shards: Collection[Shard]) -> pd.DataFrame:
    """Return the first block of posts that can be read.

    Raises
    ------
    DataError
        If there is none: what is wrong with the first shard, or that all are empty.
    """
    problem = None
    for shard in shards:
        for item in read_blocks(reading, shard):
            if isinstance(item, Block):
                if item.error is None:
                    return item.posts
                problem = problem or item.error
    raise DataError(problem or "the shards hold no posts; add at least one row")
