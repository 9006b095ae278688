"""Excel workbooks: the first sheet as a table, its first row as the header; and tables written as workbooks."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cotune.data.tables.chunks import Chunk, Collector, header_names
from cotune.errors import DataError, first_line

_MOST_BYTES = 4 * 2**30  # unpacked; a workbook of a few KB can otherwise fill the disk and the memory
_MOST_ROWS = 1_048_576
_CELL = 32_767  # characters
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
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
    except DataError:
        raise
    except Exception as error:  # rows are read while they are asked for; see _open
        raise DataError(f"{path} is not a readable workbook: {first_line(error)}") from error
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
        raise DataError(f"{path} is not a readable workbook: {first_line(error)}") from error
    return sheet, book.close


def need_openpyxl(name: str) -> None:
    """Refuse to go on without the package that writes workbooks."""
    from importlib.util import find_spec

    if find_spec("openpyxl") is None:
        raise DataError(f"{name} is an Excel workbook; {INSTALL}, or write .csv")


@contextmanager
def workbook_writer(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Iterable[Sequence[Any]]], None]]:
    """Write a workbook of one sheet, row by row.

    Text stays text: what begins with an equals sign is no formula, and characters that a workbook cannot hold are
    replaced.

    Yields
    ------
    callable
        Takes the next rows.

    Raises
    ------
    DataError
        When there are more rows than a sheet has.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("predictions")
    count = 0

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        made = WriteOnlyCell(sheet, value=_ILLEGAL.sub("\ufffd", value)[:_CELL])
        made.data_type = "s"
        return made

    def write(rows: Iterable[Sequence[Any]]) -> None:
        nonlocal count
        for row in rows:
            count += 1
            if count > _MOST_ROWS:
                raise DataError(
                    f"a sheet of Excel has {_MOST_ROWS:,} rows, and there are more posts; write .csv or .parquet"
                )
            sheet.append([cell(value) for value in row])

    try:
        write([columns])
        yield write
    except BaseException:
        sheet.close()  # or the library complains when it is thrown away half written
        raise
    book.save(path)
