"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotune.data.posts import ColumnNames

_COLUMNS = "Columns of the posts table"

PostsPath = Annotated[
    Path,
    typer.Argument(
        help="Posts table: .csv, .tsv, .jsonl, .json, .parquet or .xlsx, a datasets folder, or - for standard input.",
        metavar="POSTS",
    ),
]
IdColumn = Annotated[str, typer.Option("--id-column", help="Column of the ids.", rich_help_panel=_COLUMNS)]
TextColumn = Annotated[str, typer.Option("--text-column", help="Column of the texts.", rich_help_panel=_COLUMNS)]
ImageColumn = Annotated[
    str, typer.Option("--image-column", help="Column of the image paths.", rich_help_panel=_COLUMNS)
]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column of the labels.", rich_help_panel=_COLUMNS)]
GroupColumn = Annotated[
    str,
    typer.Option("--group-column", help="Column of groups that are kept together.", rich_help_panel=_COLUMNS),
]
_ROWS = "Rows of the posts table"
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Use only rows with this value, as in split=train; repeatable: several values of a "
        "column are alternatives, several columns must all match.",
        metavar="COLUMN=VALUE",
        rich_help_panel=_ROWS,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of POSTS, if its name does not tell: csv, tsv, jsonl, json, parquet or xlsx.",
        metavar="FORMAT",
        rich_help_panel=_ROWS,
        show_default=False,
    ),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Python module that adds parts of your own, such as a fusion head; repeatable. Installed packages "
        "that offer some are found without it.",
        metavar="MODULE",
        show_default=False,
    ),
]
AllowRemote = Annotated[
    bool,
    typer.Option("--allow-remote", help="Fetch images given by URL (https, s3 and others that fsspec supports)."),
]
ChunkSize = Annotated[int, typer.Option(min=1, help="Posts held in memory at a time.")]
InferenceBatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Posts in a batch.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]


def columns_from(
    id_column: str = "id",
    text_column: str = "text",
    image_column: str = "image",
    label_column: str = "label",
    group_column: str = "group",
) -> ColumnNames:
    """Return the column names that the five options give."""
    from cotune.data.posts import ColumnNames

    return ColumnNames(id_column, text_column, image_column, label_column, group_column)


def rows_from(where: list[str] | None, table_format: str | None) -> dict[str, Any]:
    """Return what `--where` and `--format` ask of the functions that read posts."""
    from cotune.data.where import parse_where

    return {"where": parse_where(where or []), "kind": table_format}
