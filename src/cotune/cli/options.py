"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PostsPath = Annotated[
    Path,
    typer.Argument(
        help="Posts table: .csv, .tsv, .jsonl, .json, .parquet or .xlsx, a datasets folder, or - for standard input.",
        metavar="POSTS",
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
