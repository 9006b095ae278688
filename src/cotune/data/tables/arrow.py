"""Tables of Arrow: .parquet files, folders and data sets of Hugging Face, tables in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cotune.data.tables.chunks import Chunk, UnreadableCell
from cotune.errors import DataError, first_line

Decoders = dict[str, Callable[[Any], Any]]


def parquet_chunks(path: Path, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    """Yield the rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            columns = list(table.schema_arrow.names)
            keep = _kept(columns, wanted, str(path))
            if not keep:
                yield Chunk(columns, {}, table.metadata.num_rows)
                return
            decoders = _class_labels(table.schema_arrow.metadata)
            nothing = True
            for batch in table.iter_batches(batch_size=chunk_size, columns=keep):
                nothing = False
                yield _chunk(batch, columns, keep, decoders)
            if nothing:  # whatever the file says of its rows
                yield Chunk(columns, {name: [] for name in keep}, 0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from error


def arrow_chunks(source: Any, wanted: Sequence[str]) -> Iterator[Chunk]:
    """Yield the rows of an Arrow table in memory, or of anything that can be handed over as one."""
    import pyarrow as pa

    try:
        table = source if isinstance(source, pa.Table) else pa.table(source)
        columns = list(table.schema.names)
        keep = _kept(columns, wanted, "the Arrow table")
        decoders = _class_labels(table.schema.metadata)
        yield _chunk(table, columns, keep, decoders)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"the Arrow table cannot be read: {first_line(error)}") from error


def _kept(columns: list[str], wanted: Sequence[str], source: str) -> list[str]:
    """Return the wanted columns that there are, each of which must be there once."""
    keep = [name for name in dict.fromkeys(wanted) if name in columns]
    twice = next((name for name in keep if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{source} has {columns.count(twice)} columns called {twice!r}; keep one")
    return keep


def _chunk(table: Any, columns: list[str], keep: list[str], decoders: Decoders) -> Chunk:
    values = {}
    for name in keep:
        cells = _cells(table.column(table.schema.get_field_index(name)))
        decode = decoders.get(name)
        values[name] = cells if decode is None else [decode(cell) for cell in cells]
    return Chunk(columns, values, table.num_rows)


def _cells(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):  # one cell is enough, such as text that is not UTF-8; the others are fine
        return [_cell(scalar) for scalar in column]


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        if not hasattr(scalar, "as_buffer"):  # within a list or a struct
            return UnreadableCell(f"cannot be read ({first_line(error, 100)})")
        return scalar.as_buffer().to_pybytes()
    except (ValueError, OverflowError) as error:
        return UnreadableCell(f"cannot be read ({first_line(error, 100)})")


def _class_labels(metadata: Any) -> Decoders:
    """Return how the columns are read whose numbers stand for names, by what Hugging Face keeps in a schema."""
    found: Decoders = {}
    with suppress(ValueError, LookupError, AttributeError, TypeError):  # anybody may write anything there
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        for name, feature in features.items():
            each = _of_list(feature) or feature
            names = each.get("names") if isinstance(each, dict) else None
            if isinstance(names, list) and each.get("_type") == "ClassLabel":
                found[name] = label_reader([str(label) for label in names])
    return found


def _of_list(feature: Any) -> Any:
    """Return what a list feature holds, as `datasets` writes it now and before; None for no list."""
    if isinstance(feature, list):
        return feature[0]
    listed = isinstance(feature, dict) and feature.get("_type") in ("List", "LargeList", "Sequence")
    return feature.get("feature") if listed else None


def label_reader(names: list[str]) -> Callable[[Any], Any]:
    """Return a function from a class number, or a list of them, to names."""

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(each) for each in value]
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        # Hugging Face writes -1 where a label is withheld.
        return names[value] if 0 <= value < len(names) else None

    return read


def dataset_chunks(path: Path, wanted: Sequence[str], chunk_size: int, kinds: Sequence[str]) -> Iterator[Chunk]:
    """Yield the rows of a folder that `datasets` has written."""
    if (path / "dataset_dict.json").exists():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").exists())
        raise DataError(f"{path} holds the splits {', '.join(splits) or 'none'}; name one, as {path / 'train'}")
    if not (path / "state.json").exists():
        raise DataError(
            f"{path} is a folder; a posts table is one of {', '.join(kinds)} or a folder written by "
            "Hugging Face datasets' save_to_disk"
        )
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path} is a Hugging Face datasets folder; pip install 'cotune[datasets]'") from error
    try:
        table = datasets.load_from_disk(str(path))
        decoders: Decoders = {}
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                # Encoded bytes are small and decoded safely later on.
                table = table.cast_column(name, datasets.Image(decode=False))
            each = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
            if isinstance(each, datasets.ClassLabel):
                decoders[name] = label_reader(each.names)
    except Exception as error:
        raise DataError(f"{path} cannot be opened as a datasets folder: {first_line(error)}") from error
    columns = list(table.column_names)
    keep = [name for name in dict.fromkeys(wanted) if name in columns]
    table = table.select_columns(keep)
    for start in range(0, max(1, len(table)), chunk_size):
        batch = table[start : start + chunk_size]
        values = {name: [decoders.get(name, _same)(value) for value in batch[name]] for name in keep}
        yield Chunk(columns, values, min(chunk_size, len(table) - start))


def _same(value: Any) -> Any:
    return value
