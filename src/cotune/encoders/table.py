"""The table encoder: columns of numbers and categories, such as likes, author, device or hour of a post.

Unlike text and image encoders it is not pretrained but learned from scratch together with the head. What is learned
of the training posts before training starts (means, scales, which values occur) is kept in buffers beside the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from cotune.encoders.base import Encoder, EncoderOutput, Inputs, Modality, depths_by_order
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.encoders.prepared_table import PreparedTable
from cotune.encoders.table_columns import CellReader, Cells, Column, check_columns
from cotune.encoders.table_network import TableNetwork
from cotune.errors import DataError, EncoderError, listed


class TableEncoder(Encoder):
    """A small network over columns of numbers and categories, learned from scratch with the head.

    Parameters
    ----------
    columns : sequence of Column
        What it reads, as :func:`read_columns` found it.
    dim : int
        Size of the embedding.
    width : int
        Size of the hidden layer.
    dropout : float
        Share of the hidden layer that is dropped in training.

    Raises
    ------
    EncoderError
        If there is no column, or one is neither a number nor a category with values.
    """

    modality: ClassVar[Modality] = "table"
    learned: ClassVar[bool] = True

    def __init__(self, columns: Sequence[Column], *, dim: int = 64, width: int = 64, dropout: float = 0.1) -> None:
        check_columns(columns)
        super().__init__(TableNetwork(columns, dim, width, dropout), spec="table:", dim=dim, units=())
        self.columns = tuple(columns)
        self.width = width
        self.dropout = dropout
        self.reader = CellReader(columns)

    @property
    def network(self) -> TableNetwork:
        """The network with its own type."""
        return cast(TableNetwork, self.model)

    def prepare(self, values: Sequence[Cells], options: ReadOptions) -> PreparedTable:
        """Read the cells of posts; one that cannot be read counts as missing and is listed among the problems."""
        return PreparedTable(self.reader.cells(values), self.reader.problems(values))

    def learn_from(self, prepared: Prepared, rows: np.ndarray) -> None:
        """Learn scales and known values from the training posts, and initialise the network's weights again.

        Numbers are standardised. Those with heavy tails are replaced by ``sign(x) * log1p(abs(x))`` before: if their
        skewness is above 2 in size, and smaller afterwards. A category value that does not occur in the training posts
        is read as the one "unseen" value, a missing cell of a column that had none missing as the mean or as "unseen":
        no weight is trained for them.

        Parameters
        ----------
        prepared : Prepared
            What :meth:`prepare` returned.
        rows : ndarray of int
            Positions of the training posts; those that have no cell are passed over.

        Raises
        ------
        DataError
            If no training post has a cell.
        """
        if not isinstance(prepared, PreparedTable) or prepared.cells.shape[1] != len(self.columns):
            raise EncoderError("a table encoder learns from what its own prepare() returned; pass that")
        rows = np.asarray(rows, dtype=np.int64)
        cells = prepared.cells[rows[prepared.present[rows]]]
        if len(cells) == 0:
            names = listed(column.name for column in self.columns)
            raise DataError(f"no training post has a value in the columns {names}; fill them in or leave them out")
        self.network.learn(cells)
        self.network.reset_weights()
        self.weights_changed()

    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run the network on ``cells``, shape (B, n_columns)."""
        return EncoderOutput(self.model(inputs["cells"]))

    def plain(self, inputs: Inputs) -> Tensor:
        """Return numbers as they are, NaN where one is missing, and categories one-hot; shape (B, width)."""
        cells, parts = inputs["cells"], []
        for at, column in enumerate(self.columns):
            values = cells[:, at : at + 1]
            if column.kind == "category":
                values = (values == torch.arange(len(column.values), device=cells.device)).to(cells.dtype)
            parts.append(values)
        return torch.cat(parts, dim=1)

    def dummy_inputs(self, like: Inputs | None = None) -> dict[str, Tensor]:
        """Return one post whose cells are all missing."""
        device = self.network.mean.device if like is None else next(iter(like.values())).device
        return {"cells": torch.full((1, len(self.columns)), math.nan, device=device)}

    def probe_inputs(self, n: int) -> dict[str, Tensor]:
        """Return `n` posts of random numbers and categories, a few of them missing."""
        random = np.random.default_rng(0)
        cells = random.normal(size=(n, len(self.columns))).astype(np.float32)
        for j, column in enumerate(self.columns):
            if column.kind == "category":
                cells[:, j] = random.integers(-1, len(column.values), n)
        cells[random.random(cells.shape) < 0.1] = np.nan
        return {"cells": torch.from_numpy(cells).to(self.network.mean.device)}

    def take(self, inputs: Inputs, at: int) -> dict[str, Tensor]:
        """Return one post of a batch as it is alone."""
        return {key: value[at : at + 1] for key, value in inputs.items()}

    def depths(self) -> dict[str, int]:
        """Map every parameter to 1, for there are no units."""
        return depths_by_order(self.model, self.units)

    def describe(self) -> dict[str, Any]:
        """Return columns and sizes."""
        return {
            "kind": "table",
            "modality": self.modality,
            "spec": self.spec,
            "columns": [{**asdict(column), "values": list(column.values)} for column in self.columns],
            "dim": self.dim,
            "width": self.width,
            "dropout": self.dropout,
        }

    def save_config(self, folder: Path) -> None:
        """Write columns and sizes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(self.describe(), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, saved: Mapping[str, Any]) -> TableEncoder:
        """Build an encoder from what :meth:`save_config` wrote, without weights; they are to be loaded into it.

        Raises
        ------
        EncoderError
            If the file does not describe a table encoder.
        """
        try:
            columns = [Column(each["name"], each["kind"], tuple(each["values"])) for each in saved["columns"]]
            return cls(columns, dim=saved["dim"], width=saved["width"], dropout=saved["dropout"])
        except (KeyError, TypeError) as error:
            raise EncoderError(
                f"{folder / 'encoder.json'} does not describe a table encoder ({error}); restore the file"
            ) from error
