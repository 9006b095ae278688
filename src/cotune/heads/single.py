"""Heads of one kind of field alone, the paper's unimodal baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cotune.errors import ConfigError
from cotune.heads.base import HEADS
from cotune.heads.concat import ConcatHead


class _SingleHead(ConcatHead):
    """One hidden layer on the embeddings of one kind of field."""

    kind: ClassVar[str]

    def __init__(self, dims: Mapping[str, int], n_outputs: int, *, width: int = 128, dropout: float = 0.5) -> None:
        super().__init__(dims, n_outputs, width=width, dropout=dropout, modality_dropout=0.0)

    @classmethod
    def reads(cls, kinds: Mapping[str, str]) -> tuple[str, ...]:
        """Return the fields of the head's kind."""
        found = tuple(name for name, kind in kinds.items() if kind == cls.kind)
        if not found:
            raise ConfigError(f"the fusion head {cls.kind!r} reads {cls.kind} fields, and there are none")
        return found

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head again."""
        return {"width": self.width, "dropout": self.p_dropout}


@HEADS.register("text")
class TextHead(_SingleHead):
    """The text alone."""

    kind: ClassVar[str] = "text"


@HEADS.register("image")
class ImageHead(_SingleHead):
    """The image alone."""

    kind: ClassVar[str] = "image"


@HEADS.register("table")
class TableHead(_SingleHead):
    """The columns of numbers and categories alone."""

    kind: ClassVar[str] = "table"
