"""The network of the table encoder: it standardises numbers, looks up categories, and mixes both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cotune.encoders.table_columns import LARGEST, Column

_SMALLEST = float(np.finfo(np.float32).tiny)
_HEAVY_TAIL = 2.0  # skewness; 2 is that of an exponential distribution
_MAX_DEVIATION = 10.0  # in standard deviations, so that one extreme number does not outweigh all other columns
_UNSEEN_RATE = 0.05


class TableNetwork(nn.Module):
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
        from sklearn.preprocessing import StandardScaler  # takes a second; a run without a table needs none of it

        scaler = StandardScaler().fit(numbers[:, there])
        mean[there], scale[there] = scaler.mean_, scaler.scale_
    return mean, scale.clip(_SMALLEST, LARGEST)


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
