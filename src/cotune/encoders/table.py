"""The table encoder: columns of numbers and categories, such as likes, author, device or hour of a post.

Unlike text and image encoders it is not pretrained but learned from scratch together with the head. What is learned
of the training posts before training starts (means, scales, which values occur) is kept in buffers beside the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput, Inputs, Modality, depths_by_order
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.encoders.prepared_table import PreparedTable
from cotune.errors import DataError, EncoderError, clip, did_you_mean, listed

ColumnKind = Literal["number", "category"]
#: The cells of a post by column; None for a post that has none.
Cells = Mapping[str, object] | None
_KINDS: tuple[ColumnKind, ...] = ("number", "category")

_MOSTLY_NUMBERS = 0.9  # from this share of numbers on, any other value is taken for a mistake
_MAX_CATEGORIES = 10_000
_FEW_VALUES = 20  # up to this many values, all of them may differ by chance
_HEAVY_TAIL = 2.0  # skewness; 2 is that of an exponential distribution
_MAX_DEVIATION = 10.0  # in standard deviations, so that one extreme number does not outweigh all other columns
_UNSEEN_RATE = 0.05
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
_WHOLE_FLOAT = re.compile(r"(0|-?[1-9][0-9]*)\.0+")


@dataclass(frozen=True)
class Column:
    """One column of a table field.

    Attributes
    ----------
    name : str
        Its name in the posts table.
    kind : {"number", "category"}
        How its values are read.
    values : tuple of str
        The values of a category, sorted; empty for a number.
    """

    name: str
    kind: ColumnKind
    values: tuple[str, ...] = ()


# ---- cells and columns -----------------------------------------------------------------------------------


def read_columns(
    values: Sequence[Cells],
    names: Sequence[str],
    categories: Collection[str] = (),
    rows: Sequence[int] | None = None,
) -> list[Column]:
    """Decide from the posts' cells which columns hold numbers and which hold categories.

    A column holds numbers if all of its values are finite numbers, or strings that parse as such. Missing cells do not
    count: None, NaN, empty strings and the string ``NaN``. Booleans and everything else are categories.

    Parameters
    ----------
    values : sequence of mapping or None
        The cells of each post by column; None for a post without any.
    names : sequence of str
        The columns to read.
    categories : collection of str
        Columns that are categories whatever they hold.
    rows : sequence of int, optional
        The posts' rows in their table, for messages; counted from 1 by default.

    Returns
    -------
    list of Column
        One for each name, in their order.

    Raises
    ------
    DataError
        If a column has no values, mixes numbers with a few other values, or looks like an identifier.
    """
    _check_names(names, categories)
    return [_read_column(_Values.of(values, name, rows), name in categories) for name in names]


def _check_names(names: Sequence[str], categories: Collection[str]) -> None:
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise DataError(f"the column {duplicates[0]!r} is listed twice among the table columns; list it once")
    unknown = [name for name in categories if name not in names]
    if unknown:
        raise DataError(
            f"{clip(unknown[0], 60)!r} is declared a category but is not among the table columns "
            f"({listed(names)}){did_you_mean(unknown[0], names)}; correct its name or list it there"
        )


@dataclass(frozen=True)
class _Values:
    """The values of one column that are not missing, and their rows."""

    name: str
    values: list[object]
    rows: list[int]

    @classmethod
    def of(cls, posts: Sequence[Cells], name: str, rows: Sequence[int] | None) -> _Values:
        cells = [None if post is None else post.get(name) for post in posts]
        at = [i for i, value in enumerate(cells) if not _missing(value)]
        return cls(name, [cells[i] for i in at], [i + 1 if rows is None else int(rows[i]) for i in at])


def _read_column(column: _Values, is_category: bool) -> Column:
    if not column.values:
        raise DataError(f"the column {column.name!r} has no values; fill it in or leave it out of the table columns")
    if is_category or _guess_kind(column) == "category":
        return Column(column.name, "category", _categories(column))
    return Column(column.name, "number")


def _guess_kind(column: _Values) -> ColumnKind:
    wrong = [_number(value) is None for value in column.values]
    if sum(wrong) > (1 - _MOSTLY_NUMBERS) * len(wrong) + 1e-9:
        return "category"
    if any(wrong):
        first = wrong.index(True)
        raise DataError(
            f"row {column.rows[first]}: {_not_a_number(column.name, column.values[first])}; "
            "fix the cell, leave it empty, or declare the column a category"
        )
    return "number"


def _categories(column: _Values) -> tuple[str, ...]:
    texts = [_text(value) for value in column.values]
    values = sorted(set(texts))
    if len(values) > _MAX_CATEGORIES:
        found = f"has {len(values):,} different values, more than {_MAX_CATEGORIES:,}"
    elif len(values) == len(texts) > _FEW_VALUES:
        found = f"has a different value in each of {len(texts):,} posts"
    else:
        return tuple(values)
    raise DataError(
        f"the category column {column.name!r} {found}, which looks like an identifier; "
        "leave it out of the table columns or group its values"
    )


def _not_a_number(name: str, value: object) -> str:
    return f"the column {name!r} holds {clip(_text(value), 60)!r}, expected a number"


def _missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip() in ("", "nan", "NaN")  # not "Nan", which is a name
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or value is pd.NA or value is pd.NaT


def _number(value: object) -> float | None:
    """Return `value` as a finite number; None if it is none, as booleans are not."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.integer | np.floating | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # Python reads 1_000, but no program writes it into tables
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    """Return `value` as the name of a category, the same for 3, 3.0 and "3.0", and without white space around it."""
    if isinstance(value, float | np.floating | Decimal) and (number := _number(value)) is not None:
        return str(int(number) if number.is_integer() else value)
    try:
        text = str(value).strip()
    except ValueError:  # a whole number of thousands of digits, which Python does not write out
        return type(value).__name__
    whole = _WHOLE_FLOAT.fullmatch(text)  # a table saved by pandas has 3.0 for 3 where cells are missing
    return whole[1] if whole else text


# ---- the network -----------------------------------------------------------------------------------------


class _TableNetwork(nn.Module):
    """Standardise numbers, look up categories, and mix both with two linear layers.

    What is known of the training posts is kept in buffers: ``mean``, ``scale`` and ``log`` of the numbers, ``seen``
    for the values of all category columns one after another, and ``gaps`` for the columns that had missing cells.

    Parameters
    ----------
    columns : sequence of Column
        What the cells mean.
    dim, width : int
        Size of the embedding and of the hidden layer.
    dropout : float
        Share of the hidden layer that is dropped in training.
    """

    mean: Tensor
    scale: Tensor
    log: Tensor
    seen: Tensor
    gaps: Tensor
    number_at: Tensor
    category_at: Tensor
    first_value: Tensor

    def __init__(self, columns: Sequence[Column], dim: int, width: int, dropout: float) -> None:
        super().__init__()
        number_at = [i for i, column in enumerate(columns) if column.kind == "number"]
        category_at = [i for i, column in enumerate(columns) if column.kind == "category"]
        sizes = [len(columns[i].values) for i in category_at]
        self.register_buffer("mean", torch.zeros(len(number_at)))
        self.register_buffer("scale", torch.ones(len(number_at)))
        self.register_buffer("log", torch.zeros(len(number_at)))
        self.register_buffer("seen", torch.ones(sum(sizes), dtype=torch.bool))
        self.register_buffer("gaps", torch.ones(len(columns), dtype=torch.bool))
        first_value = [sum(sizes[:i]) for i in range(len(sizes))]
        for name, at in (("number_at", number_at), ("category_at", category_at), ("first_value", first_value)):
            self.register_buffer(name, torch.tensor(at, dtype=torch.long), persistent=False)
        # Before the values come two rows: 0 for unseen and 1 for missing.
        self.embeddings = nn.ModuleList([nn.Embedding(size + 2, _embedding_size(size)) for size in sizes])
        inner = 2 * len(number_at) + sum(map(_embedding_size, sizes))
        self.layers = nn.Sequential(
            nn.Linear(inner, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, dim), nn.LayerNorm(dim)
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Turn cells (B, n_columns) into embeddings (B, dim)."""
        parts = [self._numbers(cells)]
        index = self._indices(cells)
        parts += [embedding(index[:, i]) for i, embedding in enumerate(self.embeddings)]
        joined = torch.cat([part.to(self.mean.dtype) for part in parts], dim=1)
        result: Tensor = self.layers(joined)
        return result

    def _numbers(self, cells: Tensor) -> Tensor:
        """Return standardised numbers and flags of missing ones, (B, 2 * n_numbers)."""
        values = cells[:, self.number_at]
        missing = values.isnan()
        values = torch.where(self.log.bool(), values.sign() * values.abs().log1p(), values)
        values = ((values - self.mean) / self.scale).clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
        flags = missing & self.gaps[self.number_at]
        return torch.cat([values.masked_fill(missing, 0.0), flags.to(values.dtype)], dim=1)

    def _indices(self, cells: Tensor) -> Tensor:
        """Return the rows of the embeddings, (B, n_categories)."""
        codes = cells[:, self.category_at]
        missing = codes.isnan() & self.gaps[self.category_at]
        codes = codes.nan_to_num(-1.0).long()
        known = (codes >= 0) & self.seen[self.first_value + codes.clamp(min=0)]
        if self.training:
            known = known & (torch.rand(codes.shape, device=codes.device) >= _UNSEEN_RATE)
        return torch.where(known, codes + 2, missing.long())

    def learn(self, cells: np.ndarray) -> None:
        """Set the buffers from the cells of the training posts, (N, n_columns)."""
        numbers = cells[:, self.number_at.cpu().numpy()].astype(np.float64)
        log = np.array([_is_heavy_tailed(column) for column in numbers.T], dtype=bool)
        mean, scale = _mean_and_scale(np.where(log, _log(numbers), numbers))
        seen = np.zeros(len(self.seen), dtype=bool)
        codes = cells[:, self.category_at.cpu().numpy()]
        seen[(codes + self.first_value.cpu().numpy())[codes >= 0].astype(np.int64)] = True
        learned = {"mean": mean, "scale": scale, "log": log, "seen": seen, "gaps": np.isnan(cells).any(axis=0)}
        for name, value in learned.items():
            getattr(self, name).copy_(torch.from_numpy(value))

    def reset_weights(self) -> None:
        """Initialise all weights again, from torch's current random state."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
                module.reset_parameters()


def _embedding_size(n_values: int) -> int:
    return min(16, math.ceil(1.6 * math.pow(n_values, 0.56)))


def _mean_and_scale(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column; 0 and 1 where there is nothing to learn them from."""
    mean, scale = np.zeros(numbers.shape[1]), np.ones(numbers.shape[1])
    there = ~np.isnan(numbers).all(axis=0)
    if there.any():
        scaler = StandardScaler().fit(numbers[:, there])
        mean[there], scale[there] = scaler.mean_, scaler.scale_
    return mean, scale.clip(_SMALLEST, _LARGEST)


def _is_heavy_tailed(numbers: np.ndarray) -> bool:
    """Tell whether a column of numbers is better read as logarithms: it is very skewed, its logarithms are less so."""
    numbers = numbers[~np.isnan(numbers)]
    skewed = abs(_skewness(numbers))
    return skewed > _HEAVY_TAIL and abs(_skewness(_log(numbers))) < skewed


def _log(numbers: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.sign(numbers) * np.log1p(np.abs(numbers))
    return result


def _skewness(numbers: np.ndarray) -> float:
    if len(numbers) == 0 or numbers.std() <= 1e-12 * np.abs(numbers).max():
        return 0.0
    return float(np.mean(((numbers - numbers.mean()) / numbers.std()) ** 3))


# ---- the encoder -----------------------------------------------------------------------------------------


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
        _check_columns(columns)
        super().__init__(_TableNetwork(columns, dim, width, dropout), spec="table:", dim=dim, units=())
        self.columns = tuple(columns)
        self.width = width
        self.dropout = dropout
        self._codes = [{value: code for code, value in enumerate(column.values)} for column in columns]

    @property
    def network(self) -> _TableNetwork:
        """The network with its own type."""
        return cast(_TableNetwork, self.model)

    def prepare(self, values: Sequence[Cells], options: ReadOptions) -> PreparedTable:
        """Read the cells of posts; one that cannot be read counts as missing and is listed among the problems."""
        problems = {i: problem for i, post in enumerate(values) if (problem := self.problem(post)) is not None}
        return PreparedTable(self.cells(values), problems)

    def cells(self, values: Sequence[Cells]) -> np.ndarray:
        """Turn the cells of posts into numbers.

        Parameters
        ----------
        values : sequence of mapping or None
            The cells of each post by column; a column that is not there is missing, others are ignored.

        Returns
        -------
        ndarray
            Shape (N, n_columns), float32. Numbers as they are; categories as positions in ``values``, -1 for any other
            value; NaN for missing cells and for what is not a number in a number column (see :meth:`problem`).
        """
        cells = np.full((len(values), len(self.columns)), np.nan, dtype=np.float32)
        for i, post in enumerate(values):
            if post is not None:
                cells[i] = [self._read_cell(post.get(column.name), j) for j, column in enumerate(self.columns)]
        return cells

    def _read_cell(self, value: object, j: int) -> float:
        if _missing(value):
            return math.nan
        if self.columns[j].kind == "category":
            return self._codes[j].get(_text(value), -1)
        number = _number(value)
        return math.nan if number is None else min(max(number, -_LARGEST), _LARGEST)

    def problem(self, post: Cells) -> str | None:
        """Return in one line what is wrong with a post: the first cell that should be a number and is not."""
        for column in self.columns if post is not None else ():
            value = cast(Mapping[str, object], post).get(column.name)
            if column.kind == "number" and not _missing(value) and _number(value) is None:
                return _not_a_number(column.name, value)
        return None

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


def _check_columns(columns: Sequence[Column]) -> None:
    if not columns:
        raise EncoderError("a table encoder needs at least one column; name the columns it shall read")
    for column in columns:
        if column.kind not in _KINDS:
            raise EncoderError(f"the column {column.name!r} has the kind {column.kind!r}; use number or category")
        if column.kind == "category" and not column.values:
            raise EncoderError(f"the category column {column.name!r} has no values; take columns from read_columns()")
