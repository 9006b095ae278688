"""Excel workbooks: the first sheet as a table, its first row as the header."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cotune.data.chunks import Chunk, Collector, header_names
from cotune.errors import DataError

_MOST_BYTES = 4 * 2**30  # unpacked; a workbook of a few KB can otherwise fill the disk and the memory
INSTALL = "pip install 'cotune[excel]'"


def excel_chunks(path: Path, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    """Yield the rows of a workbook's first sheet; formulas count by the value that was last computed."""
    sheet, close = _open(path)
    collector = Collector(wanted, chunk_size)
    header: list[str] = []
    try:
        for cells in sheet.iter_rows(values_only=True):
            if all(cell is None for cell in cells):
                continue
            if not header:
                header = header_names(str(path), ["" if cell is None else str(cell) for cell in cells])
                collector.columns.update(dict.fromkeys(name for name in header if name))
                continue
            collector.add({name: cell for name, cell in zip(header, cells, strict=False) if name})
            if collector.full:
                yield collector.take()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, SyntaxError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable workbook: {_first_line(error)}") from error
    finally:
        close()
    if not header:
        raise DataError(f"{path}: the first sheet is empty; a posts table needs a header and at least one row")
    yield collector.take()


def _open(path: Path) -> tuple[Any, Any]:
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(f"{path} is an Excel workbook; {INSTALL}, or save it as .csv (UTF-8)") from error
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(part.file_size for part in packed.infolist())
        if unpacked > _MOST_BYTES:
            raise DataError(f"{path} unpacks to {unpacked // 2**20:,} MB; save it as .csv (UTF-8)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions of Excel that do not concern the cells
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        if not book.worksheets:
            raise DataError(f"{path} has no sheet; a posts table needs a header and at least one row")
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some programs write a size that is too small
    except DataError:
        raise
    except Exception as error:  # a zip file of anything; openpyxl raises whatever its parts raise
        raise DataError(f"{path} is not a readable workbook: {_first_line(error)}") from error
    return sheet, book.close


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
