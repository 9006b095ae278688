"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cotune.errors import ConfigError

if TYPE_CHECKING:
    from cotune.data.known_images import KnownImages
    from cotune.scale import Workers

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
    typer.Option(
        "--allow-remote",
        help="Fetch images given by URL (https, s3 and others that fsspec supports); predict --cluster: posts and "
        "predictions too.",
    ),
]
ChunkSize = Annotated[int, typer.Option(min=1, help="Posts held in memory at a time.")]
InferenceBatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Posts in a batch.")]
_CLUSTER = "Cluster"
ClusterOption = Annotated[
    Literal["ray"] | None,
    typer.Option(
        "--cluster",
        help="Spread the work over the workers of a Ray cluster: the one at RAY_ADDRESS, or one on this machine.",
        rich_help_panel=_CLUSTER,
    ),
]
NumCpus = Annotated[
    float | None,
    typer.Option("--num-cpus", min=0, help="CPUs of each worker. \\[default: 1]", show_default=False,
                 rich_help_panel=_CLUSTER),
]  # fmt: skip
NumGpus = Annotated[
    float | None,
    typer.Option("--num-gpus", min=0, help="GPUs of each worker, or a part of one. \\[default: 0]",
                 show_default=False, rich_help_panel=_CLUSTER),
]  # fmt: skip
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", min=1, help="Workers. \\[default: as many as there is room for]", show_default=False,
                 rich_help_panel=_CLUSTER),
]  # fmt: skip
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Worker processes; with --cluster, workers. \\[default: 1; as many as there is "
                 "room for]", show_default=False, rich_help_panel="Run"),
]  # fmt: skip
KnownPath = Annotated[
    Path | None,
    typer.Option("--known", help="Table of perceptual hashes, as `cotune hashes` writes it: says of every post which "
                 "of these images it shows, if any.", metavar="HASHES", show_default=False,
                 rich_help_panel="Known images"),
]  # fmt: skip
KnownDistance = Annotated[
    int | None,
    typer.Option("--known-distance", help="Maximum number of differing bits (of 64) between an image and a known one. "
                 "\\[default: 8]", show_default=False, rich_help_panel="Known images"),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]


def known_of(path: Path | None, distance: int | None) -> KnownImages | None:
    """Return the known images that are asked for; None for none.

    Raises
    ------
    ConfigError
        If a distance is given without them, or out of range.
    DataError
        If the table is damaged.
    """
    if path is None:
        if distance is not None:
            raise ConfigError("--known-distance is about the images of --known; give both, or leave it out")
        return None
    from cotune.data.known_images import USUAL_DISTANCE, read_known

    return read_known(path, USUAL_DISTANCE if distance is None else distance)


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


def workers_of(
    cluster: str | None, num_cpus: float | None, num_gpus: float | None, concurrency: int | None = None
) -> Workers | None:
    """Return the workers that are asked for; None where the work is not spread over a cluster.

    Raises
    ------
    ConfigError
        If workers are described, but no cluster is asked for.
    """
    given = {"num_cpus": num_cpus, "num_gpus": num_gpus, "concurrency": concurrency}
    given = {name: value for name, value in given.items() if value is not None}
    if cluster is None:
        if given:
            flag = next(iter(given)).replace("_", "-")
            raise ConfigError(f"--{flag} describes the workers of a cluster; add --cluster ray, or leave it out")
        return None
    from cotune.scale import Workers

    return Workers(**given)  # type: ignore[arg-type]
