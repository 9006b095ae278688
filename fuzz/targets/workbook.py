"""Posts tables as workbooks: the parts of the zip file are what is fuzzed, so that not all inputs end at a checksum."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import openpyxl
from targets._tables import read_both_ways

WORDS = ("<row ", "<c ", 't="s"', 't="inlineStr"', 't="d"', "<v>", "</v>", "<f>", 's="1"', 'r="A1"', "&#0;", "<si>", "]]>",
         "<!DOCTYPE x [<!ENTITY a 'b'>]>", "&a;", "1e400", "-1", "99999999")  # fmt: skip
_SHEET = "xl/worksheets/sheet1.xml"


def _book() -> bytes:
    book = openpyxl.Workbook()
    for row in (["text", "label", "image"], ["a day", 1, "a.png"], ["=1+1", True, None], [3.5, "x", "b.png"]):
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


_BOOK = _book()


def seeds() -> list[bytes]:
    """Return a sheet, and a whole workbook."""
    with zipfile.ZipFile(io.BytesIO(_BOOK)) as packed:
        return [packed.read(_SHEET), _BOOK]


def read(data: bytes, folder: Path) -> None:
    """Read a workbook with `data` as its sheet, or as it is if it is a zip file."""
    if data[:2] != b"PK":
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(_BOOK)) as packed, zipfile.ZipFile(buffer, "w") as changed:
            for part in packed.infolist():
                changed.writestr(part, data if part.filename == _SHEET else packed.read(part))
        data = buffer.getvalue()
    read_both_ways(data, folder / "posts.xlsx")
