"""``table:``, the encoder of columns: made for the posts that are given, never opened by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.sources.base import SOURCES, Source, Wanted
from cotune.encoders.table import TableEncoder
from cotune.encoders.table_columns import read_columns
from cotune.errors import EncoderError


class TableSource(Source):
    """Encoders of columns, which are learned from scratch."""

    example = "table:"
    kinds = frozenset({"table"})

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Make an encoder for columns of the posts; there is no pretrained one."""
        if wanted.modality != "table":
            raise EncoderError(
                f"{wanted.spec} reads columns of numbers and categories, not a field of kind {wanted.modality}; "
                f"choose an encoder for {wanted.modality}"
            )
        if name or wanted.values is None:
            _refuse(wanted.spec)
        return TableEncoder(read_columns(wanted.values, wanted.columns, wanted.categories, wanted.rows))

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        """Build the encoder that ``encoder.json`` describes, without weights."""
        return TableEncoder.load(folder, saved)

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Refuse: the size of the network depends on the columns."""
        _refuse(spec)


def _refuse(spec: str) -> NoReturn:
    raise EncoderError(
        f"{spec} cannot be opened by itself: there is no pretrained table encoder, it is learned from columns of the "
        "posts when a model is trained; name those columns instead"
    )


SOURCES.add("table", TableSource())
