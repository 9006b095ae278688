"""Table encoders: learned from the posts of a run, so they are saved and loaded but never opened by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.sources.base import SOURCES, Source, Wanted
from cotune.encoders.table import TableEncoder
from cotune.errors import EncoderError


class TableSource(Source):
    """Encoders of columns, which exist only in the runs that learned them."""

    example = "table"
    kinds = frozenset({"table"})

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Refuse: there is no pretrained encoder of columns."""
        _refuse(wanted.spec)

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        """Build the encoder that ``encoder.json`` describes, without weights."""
        return TableEncoder.load(folder, saved)

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Refuse: the size of the network depends on the columns."""
        _refuse(spec)


def _refuse(spec: str) -> NoReturn:
    raise EncoderError(
        f"{spec} cannot be opened by name: a table encoder is learned from the posts' columns while a model is "
        "trained; name the columns of the posts table instead"
    )


SOURCES.add("table", TableSource())
