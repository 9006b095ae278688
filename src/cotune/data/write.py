"""Writing posts tables."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TextIO

import pandas as pd

from cotune.errors import DataError
from cotune.files import atomic_path


def write_posts(frame: pd.DataFrame, out: Path) -> None:
    """Write posts to a .csv, .tsv, .jsonl or .parquet file, atomically.

    Images that share a folder below the file system's root with the table are named relative to the table,
    so that both can move together; others are named in full.
    """
    kind = out.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise DataError(f"{out} has no ending that is known; write .csv, .tsv, .jsonl or .parquet")
    folder = Path(os.path.abspath(out.parent))  # noqa: PTH100 - links stay as the user wrote them
    records = [
        {str(name): _relative(value, folder) if name == "image" else value for name, value in record.items()}
        for record in frame.to_dict("records")
    ]
    names = [str(name) for name in frame.columns]
    with atomic_path(out) as temporary:
        if kind == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            schema = pa.schema([(name, pa.string()) for name in names])
            pq.write_table(pa.Table.from_pylist(records, schema=schema), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as handle:
            if kind == ".jsonl":
                handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            else:
                writer = csv.DictWriter(UnixLines(handle), names, delimiter="\t" if kind == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(records)


class UnixLines:
    r"""What `csv` writers write to, so that records end in ``\n`` and yet fields with ``\r`` are quoted.

    Parameters
    ----------
    handle : text file
        Where the records go; it is to be opened with ``newline=""``.
    """

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle

    def write(self, record: str) -> int:
        """Write one record, which `csv` has ended by a carriage return and a line feed."""
        return self._handle.write(record.removesuffix("\r\n") + "\n")


def _relative(image: str | None, folder: Path) -> str | None:
    if image is None:
        return None
    try:
        shared = Path(os.path.commonpath([image, folder]))
    except ValueError:  # other drive
        return image
    if shared == Path(shared.anchor):
        return image
    return Path(os.path.relpath(image, folder)).as_posix()
