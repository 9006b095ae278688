"""A kind of field: hashtags, read from one cell and embedded by an encoder that is learned with the head."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from cotune.data.kinds import BadCellError, FieldKind
from cotune.encoders.base import Encoder, EncoderOutput
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.encoders.sources import Source, Wanted

BUCKETS = 64


class Hashtags(FieldKind):
    def read(self, cells: Mapping[str, Any], base: str) -> tuple[str, ...] | None:
        (cell,) = cells.values()
        if cell is not None and not isinstance(cell, str):
            raise BadCellError(f"the hashtags are {cell!r}, expected words with # before them")
        return tuple(word.lower() for word in (cell or "").split() if word.startswith("#")) or None

    def has(self, value: Any) -> bool:
        return value is not None


class PreparedTags(Prepared):
    def __init__(self, posts: Sequence[tuple[str, ...] | None]) -> None:
        super().__init__(len(posts))
        self.posts = list(posts)
        self.present = np.asarray([post is not None for post in posts], dtype=bool)
        self.keys = [" ".join(post or ()) for post in posts]

    def inputs(self, rows: np.ndarray) -> dict[str, Tensor]:
        counts = torch.zeros(len(rows), BUCKETS)
        for at, row in enumerate(rows):
            for tag in self.posts[row] or ():
                counts[at, crc32(tag.encode()) % BUCKETS] += 1
        return {"tags": counts}

    def subset(self, rows: np.ndarray) -> "PreparedTags":
        return PreparedTags([self.posts[row] for row in rows])


class TagEncoder(Encoder):
    modality: ClassVar[str] = "hashtags"
    learned: ClassVar[bool] = True

    def __init__(self, dim: int = 8) -> None:
        network = nn.Sequential(nn.Linear(BUCKETS, dim), nn.LayerNorm(dim))
        super().__init__(network, spec="hashtags:", dim=dim, units=())

    def prepare(self, values: Sequence[Any], options: ReadOptions) -> PreparedTags:
        return PreparedTags(values)

    def encode(self, inputs: Mapping[str, Tensor]) -> EncoderOutput:
        return EncoderOutput(self.model(inputs["tags"]))

    def dummy_inputs(self, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        return self.probe_inputs(1)

    def probe_inputs(self, n: int) -> dict[str, Tensor]:
        return {"tags": torch.eye(BUCKETS)[:n]}

    def take(self, inputs: Mapping[str, Tensor], at: int) -> dict[str, Tensor]:
        return {"tags": inputs["tags"][at : at + 1]}

    def depths(self) -> dict[str, int]:
        return {name: 1 for name, _ in self.model.named_parameters()}

    def describe(self) -> dict[str, Any]:
        return {"kind": "hashtags", "modality": "hashtags", "spec": self.spec, "dim": self.dim}

    def save_config(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(self.describe()))


class TagSource(Source):
    example = "hashtags:"
    kinds = frozenset({"hashtags"})

    def open(self, name: str, wanted: Wanted) -> Encoder:
        return TagEncoder()

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        return TagEncoder(saved["dim"])

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        return "a linear layer on counted hashtags", TagEncoder().model


HASHTAGS, TAGS = Hashtags(), TagSource()
