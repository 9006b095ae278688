"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.errors import ConfigError

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


def words_of(given: str, flag: str) -> tuple[str, ...]:
    """Return the words of an option that takes several, with commas.

    Raises
    ------
    ConfigError
        If there is none.
    """
    words = tuple(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))
    if not words:
        raise ConfigError(f"--{flag} is empty")
    return words


def seeds_of(given: str) -> tuple[int, ...]:
    """Return the seeds of ``--seeds``.

    Raises
    ------
    ConfigError
        If one is no number from 0 on.
    """
    words = words_of(given, "seeds")
    for word in words:
        if not word.isdigit() or int(word) >= 2**32:
            raise ConfigError(f"--seeds takes numbers from 0 on, not {word!r}")
    return tuple(int(word) for word in words)
