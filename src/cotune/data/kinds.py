"""Kinds of fields: how the cells of a post become what an encoder reads, and the registry of kinds."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cotune.errors import CotuneError, RunError, clip, first_line
from cotune.plugins import is_own, where_from
from cotune.registry import Registry

FIELD_KINDS: Registry[FieldKind] = Registry("kind of field", "cotune.kinds", base=lambda: FieldKind, instances=True)
_OWN = {"text", "image", "table"}


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


def refuse_missing_kinds(folder: Path, kinds: Iterable[str], needs: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a run with fields of a kind that is not here, and name where it comes from.

    Parameters
    ----------
    folder : Path
        The run.
    kinds : iterable of str
        The kinds of its fields.
    needs : mapping
        What the run records of parts of other packages.

    Raises
    ------
    RunError
        If one is not here.
    """
    missing = next((kind for kind in kinds if kind not in _OWN and kind not in FIELD_KINDS), None)
    if missing is not None:
        part = f"kind of field {missing!r}"
        # Runs of before kinds were recorded name the encoder, which comes from the same package as a rule.
        origin = needs.get(part) or needs.get(f"encoder kind {missing!r}")
        raise RunError(f"{folder} needs the {part}, which is not available; {where_from(origin)}")


def read_cells(kind: FieldKind, cells: Mapping[str, Any], base: str) -> Any:
    """Return a post's field; what a kind of another package raises at a cell costs that cell and not the table.

    Raises
    ------
    BadCellError
        If a cell cannot be read, with the reason.
    """
    try:
        return kind.read(cells, base)
    except (BadCellError, CotuneError, MemoryError):
        raise
    except Exception as error:
        if is_own(kind):
            raise
        shown = clip(repr(next(iter(cells.values()), None)), 40)
        raise BadCellError(f"{shown} cannot be read ({type(error).__name__}: {first_line(error, 100)})") from error
