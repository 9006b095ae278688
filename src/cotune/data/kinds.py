"""Kinds of fields: how the cells of a post become what an encoder reads, and the registry of kinds."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from cotune.registry import Registry

FIELD_KINDS: Registry[FieldKind] = Registry("kind of field", "cotune.kinds")


class BadCellError(ValueError):
    """A cell that is not what its column is for."""


class FieldKind(abc.ABC):
    """What the fields of a kind hold, and how it is read from a table."""

    @abc.abstractmethod
    def read(self, cells: Mapping[str, Any], base: str) -> Any:
        """Return a post's field, from its cells by column; None for nothing.

        Parameters
        ----------
        cells : mapping
            What the table has in the field's columns.
        base : str
            Folder where relative paths begin.

        Raises
        ------
        BadCellError
            If a cell cannot be read, with the reason.
        """

    @abc.abstractmethod
    def has(self, value: Any) -> bool:
        """Tell whether what :meth:`read` returned says anything (it may still turn out to be broken)."""

    def hashed(self, value: Any) -> str | None:
        """Return the text by which a field counts in the hash of the data."""
        return None if value is None else repr(value)
