"""One hostile input, and what is expected of a program that meets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Expected = Literal["read", "named", "either"]
"""What is right: it can be used; it is refused by name; or both would be right, as of a changed byte that may not matter."""


@dataclass(frozen=True)
class ImageCase:
    """An image file.

    Attributes
    ----------
    name : str
        File name, each once.
    kind : str
        The kind of fault, as in "bomb".
    expected : {"read", "named", "either"}
        What is right.
    data : bytes
        The file.
    """

    name: str
    kind: str
    expected: Expected
    data: bytes


@dataclass(frozen=True)
class CellCase:
    """A cell of a posts table, of text or of an image.

    Attributes
    ----------
    name : str
        The id of its post, each once.
    kind : str
        The kind of fault.
    expected : {"read", "named", "either"}
        What is right.
    value : object
        The cell, as JSON can hold it.
    """

    name: str
    kind: str
    expected: Expected
    value: Any


@dataclass(frozen=True)
class TableCase:
    """A whole file where a posts table should be.

    Attributes
    ----------
    name : str
        File name, each once.
    kind : str
        The kind of fault.
    expected : {"read", "named", "either"}
        What is right for the file; "named" is a refusal with its name.
    data : bytes
        The file.
    """

    name: str
    kind: str
    expected: Expected
    data: bytes
