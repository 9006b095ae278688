"""Predictions by an exported model: reading, deciding, and the same table as a run gives. No torch is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd

from cotune.data.batches import bucketed_batches
from cotune.data.duplicates import Fingerprint
from cotune.data.images.load import ImageFault
from cotune.data.images.sources import reading_threads
from cotune.data.known_images import KnownImages
from cotune.data.seen import SEEN, SeenPosts
from cotune.data.tables.row_errors import RowError, row_errors
from cotune.encoders.table_columns import Column
from cotune.engines.sessions import Session, choose_engine, installed, open_session, usable_cores
from cotune.export.graph_names import CONTRIBUTIONS, PREDICTIONS, SHARES
from cotune.export.inputs import ImageReader, Inputs, TableReader, open_reader
from cotune.export.package import Export
from cotune.scoring import BadImages, Scorer, Scores, distinct


@dataclass(frozen=True)
class ReadPosts:
    """Posts that have been read, ready to be scored."""

    inputs: Mapping[str, Inputs]
    present: np.ndarray
    usable: np.ndarray
    faults: dict[int, ImageFault]
    errors: dict[int, RowError]


class ExportedPredictor(Scorer[ReadPosts]):
    """An exported model, ready to score posts.

    Parameters
    ----------
    export : Export
        The opened folder.
    engine : {"auto", "openvino", "onnx"}
        What runs it; by default the fastest that is installed.
    batch_size : int
        Posts in a pass.
    bad_images : {"error", "text-only"}
        What to do with a post whose image cannot be read: no prediction, or one by its text alone. Either way the row
        says so in ``error``.
    allow_remote : bool
        Whether images may be fetched by URL.
    threads : int, optional
        Threads of the engine and of decoding; all cores by default.
    session : Session, optional
        An engine that is open already.
    """

    def __init__(
        self,
        export: Export,
        *,
        engine: str = "auto",
        batch_size: int = 64,
        bad_images: BadImages = "error",
        allow_remote: bool = False,
        threads: int | None = None,
        session: Session | None = None,
    ) -> None:
        super().__init__(export.task, export.fields, export.reads, export.about["run"].get("data_hash"))
        self.export = export
        self.engine = choose_engine(engine)
        self.batch_size = batch_size
        self.bad_images: BadImages = bad_images
        self.allow_remote = allow_remote
        inputs = export.about["inputs"]
        self.readers = {
            name: open_reader(export.folder, inputs[name], allow_remote=allow_remote) for name in export.reads
        }
        self.session = session or open_session(export.graph(self.engine), self.engine, threads)
        decoding = reading_threads(threads or usable_cores(), allow_remote)
        self._decoders = ThreadPoolExecutor(decoding, thread_name_prefix="decode")

    @cached_property
    def seen(self) -> SeenPosts | None:
        """The posts that the run was trained on, as hashes."""
        path = self.export.folder / SEEN
        return SeenPosts.load(path) if path.is_file() else None

    @property
    def weights_hash(self) -> str:
        """A hash of the weights of the run that was exported."""
        return str(self.export.about["run"]["weights"])

    def table_columns(self) -> dict[str, tuple[Column, ...]]:
        """Return what the columns of each table field hold."""
        return {name: each.columns for name, each in self.readers.items() if isinstance(each, TableReader)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads that decode."""
        self._decoders.shutdown(cancel_futures=True)

    @property
    def engine_version(self) -> str:
        """What runs the model, with its version: equal ones give equal predictions."""
        return f"{self.engine} {installed()[self.engine]}"

    def batches(self, posts: pd.DataFrame) -> Iterator[dict[str, np.ndarray]]:
        """Yield what the graph reads of posts, batch by batch."""
        read = self.read(posts)
        for batch in self._batches(read, np.flatnonzero(read.usable)):
            yield self.arrays(read.inputs, read.present, batch)

    def read(self, posts: pd.DataFrame) -> ReadPosts:
        """Read posts, images in several threads; equal texts and images once."""
        nothing = [None] * len(posts)
        inputs = {}
        for name, reader in self.readers.items():
            with self.timed(reader.step):
                inputs[name] = reader.read(list(posts[name]) if name in posts else nothing, self._decoders)
        present = np.stack([field.present for field in inputs.values()], axis=1)
        errors: dict[int, RowError] = {}
        problems: dict[int, list[str]] = {}
        faults: dict[int, ImageFault] = {}
        for name, field in inputs.items():
            faults = {**field.faults, **faults}
            for i, reason in field.problems.items():
                problems.setdefault(i, []).append(f"{name}: {reason}")
        errors |= {i: RowError((), "; ".join(found)) for i, found in problems.items()}
        for i, error in enumerate(row_errors(posts)):
            if error is not None:
                errors[i] = error
                if error.concerns(self.reads):
                    present[i] = False
        usable = np.any(present, axis=1)
        if self.bad_images == "error":
            usable[list(faults)] = False
        return ReadPosts(inputs, present, usable, dict(sorted(faults.items())), errors)

    def score(self, read: ReadPosts) -> Scores:
        """Score posts that were read; equal ones once."""
        errors = self.errors_of(read.faults, read.errors, read.usable)
        scores = Scores.none(self.task, self.field_names, errors)
        rows = np.flatnonzero(read.usable)
        columns = np.array([self.field_names.index(name) for name in self.reads])
        contents = [field.keys for field in read.inputs.values()]
        once, of = distinct([*zip(*contents, map(bytes, read.present), strict=True)], rows)
        for batch in self._batches(read, once):
            with self.timed("infer"):
                result = self.session.run(self.arrays(read.inputs, read.present, batch))
            scores.predictions[batch] = result[PREDICTIONS]
            for name, values in ((SHARES, scores.shares), (CONTRIBUTIONS, scores.contributions)):
                if name in result:
                    values[batch] = 0.0  # fields that the model does not read
                    values[np.ix_(batch, columns)] = result[name]
        scores.copied(rows, of)
        return scores.without_nonsense(rows)

    def look_for(self, known: KnownImages) -> None:
        """Say of every post from now on whether its image is known."""
        super().look_for(known)
        for reader in self.readers.values():
            if isinstance(reader, ImageReader):
                reader.looks = True

    def fingerprints(self, read: ReadPosts) -> Mapping[str, Sequence[Fingerprint | None]]:
        """Return what images of posts that were read are known by, by field."""
        return {name: field.fingerprints for name, field in read.inputs.items() if field.fingerprints is not None}

    def _batches(self, read: ReadPosts, rows: np.ndarray) -> Iterator[np.ndarray]:
        lengths = np.sum([field.lengths for field in read.inputs.values()], axis=0)[rows]
        exact = [read.inputs[name].lengths[rows] for name, reader in self.readers.items() if reader.by_length]
        if not exact:
            yield from (rows[at] for at in bucketed_batches(lengths, self.batch_size, seed=None))
            return
        for kind in np.unique(np.stack(exact, axis=1), axis=0):
            alike = rows[(np.stack(exact, axis=1) == kind).all(axis=1)]
            yield from (alike[i : i + self.batch_size] for i in range(0, len(alike), self.batch_size))

    def arrays(self, inputs: Mapping[str, Inputs], present: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the graph reads of the posts at `rows`."""
        found = {"present": present[rows]}
        for at, (name, reader) in enumerate(self.readers.items()):
            cells = [inputs[name].rows[row] if present[row, at] else None for row in rows]
            found |= {f"{name}.{key}": value for key, value in reader.batch(cells).items()}
        return found
