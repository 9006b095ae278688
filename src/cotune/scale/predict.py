"""Predictions on a cluster: shards of posts in, one file of predictions out for each block of posts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from cotune.data.posts import ColumnNames
from cotune.errors import ConfigError
from cotune.export.choose import EngineChoice, engine_for, identity_of
from cotune.plugins import load_plugins
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.scale.cluster import Cluster, Workers
from cotune.scale.connect import connected
from cotune.scale.library import import_ray
from cotune.scale.manifest import Manifest
from cotune.scale.scoring import BlockScorer, Model, Scoring, files_of
from cotune.scale.shards import Block, Reading, Shard, ShardEnd, first_posts, list_shards, read_blocks
from cotune.scale.storage import Storage, full_name, refuse_remote


def predict(
    run: str | os.PathLike[str],
    posts: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    scoring: Scoring | None = None,
    reading: Reading | None = None,
    workers: Workers | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score posts on a Ray cluster: the one at RAY_ADDRESS, or one that is started on this machine.

    For each block of posts there is one file ``part-SHARD-BLOCK.parquet`` with the rows, columns and numbers that
    `cotune predict` gives; ``manifest.json`` says which are done, and ``_SUCCESS`` that all are. A shard that cannot be
    read, or not to its end, has a row of its own with the error in place of what cannot be read.

    Parameters
    ----------
    run : path
        A run or an export.
    posts : path or URL
        A posts table, or a folder of them.
    out : path or URL
        The folder to write.
    scoring : Scoring, optional
        How posts are scored.
    reading : Reading, optional
        How shards are read.
    workers : Workers, optional
        How many workers, and what each takes.
    resume : bool
        Whether `out` may hold finished blocks, which are not scored again.
    progress : Progress, optional
        Progress reporter.

    Returns
    -------
    dict
        How many posts, predictions, labels and errors there are, the first errors, and shards that could not be read.

    Raises
    ------
    CotuneError
        If the run, the posts or the folder cannot be used, there is no cluster, or a worker died too often. What is
        done is kept in `out`.
    """
    scoring, progress = scoring or Scoring(), progress or Progress()
    reading = _whole_chunks(reading or Reading(ColumnNames()), scoring.chunk_size)
    wanted = workers or Workers()
    if wanted.num_gpus and scoring.device == "auto":
        scoring = replace(scoring, device="cuda")
    source, target = full_name(os.fspath(posts)), Storage(full_name(os.fspath(out)))
    for url in (source, target.url):
        refuse_remote(url, scoring.allow_remote)
    if f"{target.url}/".startswith(f"{source.rstrip('/')}/"):
        raise ConfigError(
            f"{target.url} is within the folder of the posts, where its parts would be read as posts the next time; "
            "write to a folder beside it"
        )
    import_ray()  # what is missing is said before anything is read
    load_plugins(list(scoring.plugins))
    scoring = replace(scoring, engine=engine_for(scoring.engine, scoring.precision))
    choice = EngineChoice(
        Path(full_name(os.fspath(run))), scoring.engine, device=scoring.device, plugins=scoring.plugins
    )
    shards = list_shards(source, reading.kind, progress)
    manifest = Manifest(target, choice.identity, _settings(scoring, reading), shards)
    manifest.begin(resume=resume)
    if not manifest.finished:
        with connected(wanted) as cluster:
            folder = _prepared(choice, reading, shards, progress)
            _score(cluster, folder, scoring, reading, manifest, progress)
    manifest.finish()
    return manifest.counts()


def _whole_chunks(reading: Reading, chunk_size: int) -> Reading:
    """Return `reading` with blocks of whole chunks, so that posts meet in batches as they do in a single process."""
    if reading.block_rows < 1:
        raise ConfigError(f"--block-rows is at least 1, not {reading.block_rows}")
    return replace(reading, block_rows=-(-reading.block_rows // chunk_size) * chunk_size)


def _settings(scoring: Scoring, reading: Reading) -> dict[str, Any]:
    """Return what decides, with the run and the posts, what the predictions are; the engine is noted by the workers."""
    named = ("device", "precision", "chunk_size", "batch_size", "bad_images", "allow_remote")
    known = {} if scoring.known is None else {"known": scoring.known.digest}
    return {**{name: getattr(scoring, name) for name in named}, **known, **vars(reading)}


def _prepared(choice: EngineChoice, reading: Reading, shards: list[Shard], progress: Progress) -> Path:
    """Return the folder that workers open: the run, or its export; posts that nobody can read are refused here."""
    from cotune.run import load_run

    posts = first_posts(reading, shards)
    if choice.ready is None and not choice.may_export(inf):
        return choice.folder
    export, _ = choice.prepare(partial(load_run, choice.folder), posts, progress, n_posts=inf)
    return choice.folder if export is None else export.folder


def _score(
    cluster: Cluster, folder: Path, scoring: Scoring, reading: Reading, manifest: Manifest, progress: Progress
) -> None:
    todo = manifest.todo()
    progress.say(
        f"note: {plural(cluster.size, 'worker')} with {cluster.workers.describe()} each, "
        f"{plural(len(todo), 'shard')} to score"
    )
    model = Model(folder, identity_of(folder), cluster.put(files_of(folder)) if cluster.elsewhere else None)
    arguments = (model, scoring, manifest.out, cluster.workers.threads)
    found = cluster.stream(todo, BlockScorer, arguments, expand=partial(_blocks, reading))
    with closing(found):
        try:
            for done in progress.track(found, "blocks", None):
                manifest.add(done)
        finally:
            manifest.save()


def _blocks(reading: Reading, todo: tuple[Shard, frozenset[int]]) -> Iterator[Block | ShardEnd]:
    return read_blocks(reading, *todo)
