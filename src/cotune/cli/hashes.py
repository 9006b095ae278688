"""The command ``hashes``: a table of perceptual hashes, by which images are known again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.options import AllowRemote, AsJson
from cotune.cli.settings import Table
from cotune.cli.show import command, print_json, reporter, tell_note
from cotune.errors import ConfigError, DataError, listed
from cotune.report.numbers import plural

if TYPE_CHECKING:
    from cotune.data.duplicates import Fingerprint

_CHUNK = 512
_SHOWN = 3


def hashes(
    images: Annotated[
        Path,
        typer.Argument(help="Posts table with images, which are called by the ids; or a folder of image files, which "
                       "are called by their paths in it.", metavar="IMAGES"),
    ],
    out: Annotated[Path, typer.Option("--out", help="Table to write: a .csv file.", metavar="HASHES")],
    table: Table = None,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write the perceptual hashes of images, which `predict`, `serve` and `decide` know again with --known.

    Hashes show neither the images nor what is on them. Images all or mostly of one shade, such as words on white, are
    left out: their hashes resemble each other.
    """
    from cotune.data.known_images import write_known
    from cotune.files import real_path

    if out.suffix.lower() != ".csv":
        raise ConfigError(f"{out} is to hold a table of hashes; give --out a name that ends in .csv")
    if real_path(out) == real_path(images):
        raise ConfigError(f"{out} is the table of images itself, which hashes would replace; give --out another name")
    chunks = _of_folder(images) if images.is_dir() and not _is_table(images) else _of_table(images, table)
    found = write_known(out, _marked(chunks, allow_remote))
    if as_json:
        print_json({"out": str(out), "hashes": found.written, "unreadable": found.unreadable, "flat": found.flat})
        return
    for names, why in ((found.unreadable, "cannot be read"), (found.flat, "all or mostly of one shade")):
        if names:
            tell_note(f"note: {plural(len(names), 'image')} left out, {why}: {listed(names, most=_SHOWN)}")
    find = command("cotune", "predict", "RUN", "POSTS", "--known", out, "--out", "predictions.csv")
    typer.echo(f"{plural(found.written, 'hash', 'hashes')} written to {out}; look for them with: {find}")


def _marked(chunks: Iterator[tuple[list[str], list[object]]], remote: bool) -> Iterator[tuple[str, Fingerprint | None]]:
    """Yield the name and fingerprint of every image that is there."""
    from cotune.data.duplicates import fingerprints
    from cotune.data.tables.cells import has_image

    for names, cells in reporter().track(chunks, "images (in chunks)", None):
        there = [(name, cell) for name, cell in zip(names, cells, strict=True) if has_image(cell)]
        yield from zip(
            (name for name, _ in there), fingerprints([cell for _, cell in there], allow_remote=remote), strict=True
        )


def _of_table(path: Path, table: Table) -> Iterator[tuple[list[str], list[object]]]:
    from cotune.data.posts import iter_posts

    columns = table.columns(None)
    names = [field.name for field in columns.read_fields() if field.kind == "image"]
    for posts in iter_posts(path, _CHUNK, columns=columns, tell=reporter().say, **table.rows()):
        for name in (name for name in names if name in posts):
            yield posts["id"].astype(str).tolist(), posts[name].tolist()


def _is_table(folder: Path) -> bool:
    """Tell whether a folder was written by the library datasets."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json"))


def _files(folder: Path) -> list[Path]:
    """Return the files in a folder that are named as images are."""
    from PIL import Image

    known = Image.registered_extensions()
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())


def _of_folder(folder: Path) -> Iterator[tuple[list[str], list[object]]]:
    files = _files(folder)
    if not files:
        raise DataError(f"{folder} holds no image files; name a folder of images, or a posts table")
    for at in range(0, len(files), _CHUNK):
        part = files[at : at + _CHUNK]
        yield [path.relative_to(folder).as_posix() for path in part], [str(path) for path in part]
