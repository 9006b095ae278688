"""Predictions of a trained run by torch, which opened it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from cotune.data.duplicates import Fingerprint
from cotune.data.seen import SeenPosts
from cotune.encoders.prepared import ReadOptions
from cotune.encoders.table import TableEncoder
from cotune.encoders.table_columns import Column
from cotune.heads import Embeddings
from cotune.heads.contributions import Contributions, contributions
from cotune.model import Batch
from cotune.run import Run, weights_hash
from cotune.scoring import BadImages, Scorer, Scores, distinct
from cotune.settings import make_config
from cotune.training.device import choose_device
from cotune.training.features import Features, iterate, prepare
from cotune.training.precision import choose_precision, encoding
from cotune.training.prefetch import on_device


class Predictor(Scorer[tuple[Features, np.ndarray, list[str]]]):
    """A run, ready to score posts.

    Parameters
    ----------
    run : Run
        The trained model.
    device : {"auto", "cpu", "cuda", "mps"}
        Where it runs.
    precision : {"32", "auto", "bf16", "16"}
        Number format of the encoders, see :func:`cotune.training.precision.choose_precision`.
    batch_size : int
        Posts in a pass.
    bad_images : {"error", "text-only"}
        What to do with a post whose image cannot be read: no prediction, or one by its text alone. Either
        way the row says so in ``error``.
    allow_remote : bool
        Whether images may be fetched by URL.
    """

    def __init__(
        self,
        run: Run,
        *,
        device: str = "auto",
        precision: str = "32",
        batch_size: int = 64,
        bad_images: BadImages = "error",
        allow_remote: bool = False,
    ) -> None:
        super().__init__(run.task, run.fields, tuple(run.model.encoders), run.environment.get("data_hash"))
        self.run = run
        asked = make_config({"device": device, "precision": precision})
        self.device = choose_device(asked.device)
        self.precision = choose_precision(asked.precision, self.device.type)
        self.batch_size = batch_size
        self.bad_images: BadImages = bad_images
        self.allow_remote = allow_remote
        self.model = run.model.to(self.device).eval()

    @property
    def seen(self) -> SeenPosts | None:
        """The posts that the run was trained on, as hashes."""
        return self.run.seen

    @property
    def weights_hash(self) -> str:
        """A hash of the weights."""
        return weights_hash(self.run.model)

    def table_columns(self) -> dict[str, tuple[Column, ...]]:
        """Return what the columns of each table field hold."""
        encoders = ((name, encoder.face) for name, encoder in self.model.encoders.items())
        return {name: encoder.columns for name, encoder in encoders if isinstance(encoder, TableEncoder)}

    @property
    def engine_version(self) -> str:
        """What runs the model, with its version: equal ones give equal predictions."""
        return f"torch {torch.__version__} on {self.device.type} in {self.precision.name}"

    def score(self, read: tuple[Features, np.ndarray, list[str]]) -> Scores:
        """Score posts that were read; equal ones once."""
        features, rows, errors = read
        scores = Scores.none(self.task, self.field_names, errors)
        present = features.present
        once, of = distinct([(*features.content(i), *present[i].tolist()) for i in range(len(features))], rows)
        with self.timed("infer"):
            for at, parts in self.contributions(features, once):
                scores.predictions[at] = parts.predictions.cpu().double().numpy()
                scores.shares[at] = torch.stack(list(parts.shares().values()), dim=1).cpu().double().numpy()
                scores.contributions[at] = torch.stack(list(parts.parts.values()), dim=1).cpu().double().numpy()
        scores.copied(rows, of)
        return scores.without_nonsense(rows)

    def read(self, posts: pd.DataFrame) -> tuple[Features, np.ndarray, list[str]]:
        """Return the prepared posts, the positions of those that can be scored, and what is wrong with each."""
        options = ReadOptions(allow_remote=self.allow_remote, looks=self.known is not None)
        with self.timed("read"):
            features = prepare(posts, self.model.encoders, options, device=self.device)
        usable: np.ndarray = np.asarray(features.present.any(axis=1))
        faults = features.faults
        if self.bad_images == "error":
            usable[list(faults)] = False
        return features, np.flatnonzero(usable), self.errors_of(faults, features.errors, usable)

    def fingerprints(self, read: tuple[Features, np.ndarray, list[str]]) -> Mapping[str, Sequence[Fingerprint | None]]:
        """Return what images of posts that were read are known by, by field."""
        features = read[0]
        return features.fingerprints(np.arange(len(features)))

    def embedded(self, features: Features, rows: np.ndarray) -> Iterator[tuple[Batch, Embeddings]]:
        """Yield batches of the posts at `rows`, on the model's device, with their embeddings."""
        sources = dict.fromkeys(self.model.encoders, "raw")
        batches = iterate(features, rows, sources, self.batch_size) if len(rows) else ()
        for moved in on_device(batches, self.device):
            with torch.inference_mode(), encoding(self.precision.name, self.device.type):
                embeddings = self.model.embed(moved)
            yield moved, embeddings

    def contributions(self, features: Features, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Contributions]]:
        """Yield positions and contributions of the posts at `rows`, batch by batch."""
        for batch, embeddings in self.embedded(features, rows):
            with torch.inference_mode():
                parts = contributions(self.model.head, self.run.task, embeddings, self.field_names)
            assert batch.rows is not None
            yield batch.rows.numpy(), parts
