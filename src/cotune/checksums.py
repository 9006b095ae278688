"""Checksums of files and of JSON values, so that damage is found when they are opened and not in what they give."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.errors import clip
from cotune.files import to_json

if TYPE_CHECKING:
    import numpy as np
    from pydantic import TypeAdapter

_SEAL = "checksum"


@cache
def _recorded() -> TypeAdapter[Any]:
    """Return what checks the form of what :func:`checksums` returns; pydantic takes a while to import."""
    from pydantic import TypeAdapter, create_model

    entry: Any = create_model("Entry", bytes=int, sha256=str)
    return TypeAdapter(dict[str, entry])


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files in `folder`, by name."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}


def refuse_malformed(recorded: Any) -> None:
    """Refuse what :func:`checksums` cannot have returned, before a file is looked for by it.

    Parameters
    ----------
    recorded : object
        What a file says that it returned.

    Raises
    ------
    ValueError
        If it has another form, or names files outside of their folder.
    """
    try:
        names = _recorded().validate_python(recorded)
    except ValueError as error:
        raise ValueError("its checksums are of no form that is known") from error
    outside = next((name for name in names if Path(name).is_absolute() or ".." in Path(name).parts), None)
    if outside is not None:
        raise ValueError(f"its checksums name a file outside of the folder, {clip(outside)!r}")


def damage(folder: Path, recorded: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield name and damage of the files that are not as :func:`checksums` recorded them.

    Parameters
    ----------
    folder : Path
        Where they lie.
    recorded : mapping
        What :func:`checksums` returned.

    Raises
    ------
    ValueError
        If it cannot have returned that.
    """
    refuse_malformed(recorded)
    for name, entry in recorded.items():
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        elif (size := path.stat().st_size) != entry["bytes"]:
            yield name, f"was changed or cut short (it has {size:,} bytes, not {entry['bytes']:,})"
        elif sha256(path) != entry["sha256"]:
            yield name, "was changed (its checksum differs)"


def of_columns(columns: Iterable[np.ndarray | list[str]]) -> str:
    """Return the SHA-256 of a table's columns, numbers and texts, in their order."""
    digest = hashlib.sha256()
    for column in columns:
        if isinstance(column, list):
            digest.update("\0".join(column).encode("utf-8", errors="replace"))
        else:
            digest.update(column.tobytes())
    return digest.hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` with a checksum of itself."""
    return {**value, _SEAL: _of_value(value)}


def seal_holds(value: Mapping[str, Any]) -> bool:
    """Tell whether a sealed value is as it was; true as well for one that was never sealed."""
    return _SEAL not in value or value[_SEAL] == _of_value(value)


def _of_value(value: Mapping[str, Any]) -> str:
    rest = {key: value[key] for key in sorted(value) if key != _SEAL}
    return hashlib.sha256(to_json(rest, indent=None).encode("utf-8", errors="replace")).hexdigest()
