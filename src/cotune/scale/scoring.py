"""The worker that scores blocks of posts: it opens the model once, and writes each block as a file of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock

from cotune.checksums import checksums
from cotune.data.known_images import KNOWN, KnownImages
from cotune.data.predictions import predictions_writer
from cotune.data.store import default_root
from cotune.export.choose import identity_of
from cotune.export.package import is_export, open_export
from cotune.files import atomic_path
from cotune.plugins import load_plugins
from cotune.scale.library import get
from cotune.scale.shards import Block, ShardEnd
from cotune.scale.storage import Storage
from cotune.scoring import BadImages, Scorer, Scores

if TYPE_CHECKING:
    from cotune.engines.sessions import Engine

_SHOWN = 5


@dataclass(frozen=True)
class Scoring:
    """How posts are scored; the parameters are those of `cotune predict`.

    Attributes
    ----------
    engine, device, precision : str
        What runs the model, where, and in which number format.
    chunk_size, batch_size : int
        Posts that are held decoded, and posts of a pass.
    bad_images : {"error", "text-only"}
        What becomes of a post whose image cannot be read.
    allow_remote : bool
        Whether posts and images may be fetched, and predictions be written, by URL.
    plugins : tuple of str
        Modules that the run needs.
    known : KnownImages, optional
        Images that are looked for in posts.
    """

    engine: Engine = "auto"
    device: str = "auto"
    precision: str = "32"
    chunk_size: int = 512
    batch_size: int = 64
    bad_images: BadImages = "error"
    allow_remote: bool = False
    plugins: tuple[str, ...] = ()
    known: KnownImages | None = None


@dataclass(frozen=True)
class Model:
    """Where a worker finds the run, or its export.

    Attributes
    ----------
    folder : Path
        Where it lies on the machine that begins.
    identity : str
        Its hash.
    files : object, optional
        A reference to the contents of its files, for machines that do not have the folder.
    """

    folder: Path
    identity: str
    files: Any = None

    def here(self) -> Path:
        """Return the folder on this machine; files that were sent along are unpacked once."""
        if self.files is None or _is(self.folder, self.identity):
            return self.folder
        unpacked = default_root() / "models" / self.identity
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{unpacked}.lock"):
            if not _is(unpacked, self.identity):
                with atomic_path(unpacked, directory=True) as folder:
                    for name, content in get(self.files).items():
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        (folder / name).write_bytes(content)
        return unpacked


def _is(folder: Path, identity: str) -> bool:
    return folder.is_dir() and identity_of(folder) == identity


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below `folder`, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class BlockDone:
    """What is known of a block that was scored and written."""

    shard: int
    block: int
    file: str
    bytes: int
    sha256: str
    rows: int
    predicted: int
    errors: int
    labels: dict[str, int]
    engine: str
    unreadable: bool = False
    known: int | None = None
    first_errors: list[dict[str, Any]] = field(default_factory=list)


class BlockScorer:
    """Scores blocks of posts, called with one after another.

    Parameters
    ----------
    model : Model
        The run or export.
    scoring : Scoring
        How.
    out : Storage
        Where the predictions go.
    threads : int
        How many threads it may use.
    """

    def __init__(self, model: Model, scoring: Scoring, out: Storage, threads: int) -> None:
        self.out, self.chunk_size = out, scoring.chunk_size
        self.scorer = _open(model.here(), scoring, threads)
        if scoring.known is not None:
            self.scorer.look_for(scoring.known)

    def __call__(self, item: Block | ShardEnd) -> BlockDone | ShardEnd:
        """Write the predictions of a block and return what is known of them."""
        if isinstance(item, ShardEnd):
            return item
        frame = self._failed(item) if item.error is not None else self._scored(item.posts)
        name = f"part-{item.shard:05}-{item.number:06}.parquet"
        scorer = self.scorer
        with self.out.file(name) as path:
            with predictions_writer(path, scorer.columns(), scorer.text_columns()) as write:
                write(frame)
            ((_, written),) = checksums(path.parent, [path.name]).items()
        wrong = frame["error"].notna()
        rows = item.posts["row"] if "row" in item.posts else pd.Series([None])
        shown = [
            {"row": rows.iloc[at], "id": frame["id"].iloc[at], "error": frame["error"].iloc[at]}
            for at in np.flatnonzero(wrong)[:_SHOWN].tolist()
        ]
        labels = Counter(frame["label"].dropna()) if scorer.task.text_label else Counter()
        return BlockDone(
            item.shard, item.number, name, written["bytes"], written["sha256"], len(frame),
            int(frame["label"].notna().sum()), int(wrong.sum()), dict(sorted(labels.items())),
            scorer.engine_version, item.error is not None,
            None if scorer.known is None else int(frame[KNOWN].notna().sum()), shown,
        )  # fmt: skip

    def _scored(self, posts: pd.DataFrame) -> pd.DataFrame:
        return pd.concat(list(self.scorer.stream(_pieces(posts, self.chunk_size))), ignore_index=True)

    def _failed(self, block: Block) -> pd.DataFrame:
        """Return the one row that stands for what cannot be read."""
        nothing = Scores.none(self.scorer.task, self.scorer.field_names, [str(block.error)])
        return self.scorer.frame_of(block.posts, nothing)


def _pieces(posts: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    for at in range(0, len(posts), size):
        yield posts.iloc[at : at + size].reset_index(drop=True)


def _open(folder: Path, scoring: Scoring, threads: int) -> Scorer[Any]:
    common: Mapping[str, Any] = {
        "batch_size": scoring.batch_size,
        "bad_images": scoring.bad_images,
        "allow_remote": scoring.allow_remote,
    }
    if is_export(folder):
        from cotune.export.predictor import ExportedPredictor

        return ExportedPredictor(open_export(folder), engine=scoring.engine, threads=threads, **common)
    import torch

    from cotune.predict import Predictor
    from cotune.run import load_run

    load_plugins(list(scoring.plugins))
    torch.set_num_threads(threads)
    return Predictor(load_run(folder), device=scoring.device, precision=scoring.precision, **common)
