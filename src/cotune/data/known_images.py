"""Images that are known by their perceptual hashes: a table of them, and what of new posts is found in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cotune.data.duplicates import Fingerprint
from cotune.data.hash_index import MOST_DISTANCE, Hashes, HashIndex
from cotune.data.images.appearance import NO_HASH
from cotune.data.tables.cells import is_missing
from cotune.data.tables.read import read_chunks
from cotune.data.write import UnixLines
from cotune.errors import ConfigError, DataError, clip, listed
from cotune.files import atomic_path

ALGORITHM = "phash"
"""The 64-bit DCT hash of the package ImageHash, in 16 hexadecimal digits."""
COLUMNS = ("hash", "name", "algorithm")
KNOWN, DISTANCE = "known", "known_distance"
"""Columns of predictions: the name of the known image, and in how many bits it differs."""
USUAL_DISTANCE = 8
_CHUNK = 50_000


@dataclass(frozen=True)
class KnownImages:
    """Images that are known.

    Attributes
    ----------
    hashes : ndarray of uint64
        Their perceptual hashes, shape (N,).
    names : sequence of str
        What each is called.
    max_distance : int
        In how many of 64 bits an image may differ from one that is known.
    """

    hashes: Hashes
    names: Sequence[str]
    max_distance: int = USUAL_DISTANCE

    @cached_property
    def _index(self) -> HashIndex:
        return HashIndex(self.hashes, self.max_distance)

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides what is found."""
        found = hashlib.blake2b(self.hashes.tobytes() + bytes([self.max_distance]), digest_size=16)
        for name in self.names:
            found.update(f"{len(name)}:{name}".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def find(self, fields: Iterable[Sequence[Fingerprint | None]], n: int) -> tuple[list[str | None], np.ndarray]:
        """Return which known image each of `n` posts shows, and in how many bits it differs.

        Images all or mostly of one shade are not looked for, as their hashes say little.

        Parameters
        ----------
        fields : iterable of sequence
            The fingerprints of each image field; of several fields the nearest counts.
        n : int
            How many posts there are.

        Returns
        -------
        names : list of str or None
            None for a post without a known image.
        distances : ndarray of float
            NaN for such.
        """
        best, distance = np.full(n, -1), np.full(n, np.inf)
        for marks in fields:
            looks = np.asarray([telling_look(mark) for mark in marks], dtype=np.uint64)
            there = np.flatnonzero(looks != NO_HASH)
            places, apart = self._index.nearest(looks[there])
            nearer = (places >= 0) & (apart < distance[there])
            best[there[nearer]], distance[there[nearer]] = places[nearer], apart[nearer]
        names = [None if at < 0 else self.names[at] for at in best.tolist()]
        return names, np.where(best < 0, np.nan, distance)


def telling_look(mark: Fingerprint | None) -> int:
    """Return the perceptual hash of an image; :data:`NO_HASH` without an image or if it is mostly of one shade."""
    return NO_HASH if mark is None or mark.detail is not None else mark.look


def read_known(path: str | Path, max_distance: int = USUAL_DISTANCE) -> KnownImages:
    """Read a table of hashes: the column `hash`, perhaps `name` and `algorithm`.

    Parameters
    ----------
    path : path
        Any table that can hold posts. A hash without a name is its own name.
    max_distance : int
        In how many of 64 bits an image may differ from one that is known.

    Raises
    ------
    DataError
        If the table cannot be read, or a hash is damaged, of another kind or says nothing; with its row.
    ConfigError
        If the distance is out of range, or ImageHash is not installed.
    """
    if find_spec("imagehash") is None:  # images that serve exports do without it
        raise ConfigError("known images are found by ImageHash; install it with: pip install ImageHash")
    if not 0 <= max_distance <= MOST_DISTANCE:
        raise ConfigError(f"known-distance is a number of bits from 0 to {MOST_DISTANCE}, not {max_distance}")
    path = Path(path)
    hashes: list[np.ndarray] = []
    names: list[str] = []
    row = 0
    for chunk in read_chunks(path, list(COLUMNS), _CHUNK):
        if "hash" not in chunk.columns:
            raise DataError(
                f"{path} holds no hashes of images: it needs the column hash, as the table that `cotune hashes` "
                f"writes; it has: {listed(chunk.columns) or 'none'}"
            )
        columns = [chunk.values.get(name, [None] * chunk.rows) for name in COLUMNS]
        values = np.empty(chunk.rows, dtype=np.uint64)
        for i, (cell, name, algorithm) in enumerate(zip(*columns, strict=True)):
            row += 1
            values[i] = _hash(cell, algorithm, path, row)
            names.append(f"{values[i]:016x}" if is_missing(name) or not str(name).strip() else str(name).strip())
        hashes.append(values)
    if not names:
        raise DataError(f"{path} holds no hashes; `cotune hashes IMAGES --out {path.name}` makes such a table")
    return KnownImages(np.concatenate(hashes), names, max_distance)


def _hash(cell: object, algorithm: object, path: Path, row: int) -> int:
    named = "" if is_missing(algorithm) else str(algorithm).strip()
    if named.lower() not in ("", ALGORITHM):
        raise DataError(
            f"{path}, row {row}, column algorithm: {clip(named)!r} is not compared with images here; the "
            f"hashes are those of {ALGORITHM}, 64 bits"
        )
    text = "" if is_missing(cell) else str(cell).strip().lower().removeprefix("0x")
    try:
        value = int(text, 16) if len(text) == 16 and text.isascii() and text.isalnum() else -1
    except ValueError:
        value = -1
    if value < 0:
        shown = clip(str(cell)) if text else ""
        raise DataError(
            f"{path}, row {row}, column hash: {shown!r} is not 16 hexadecimal digits; `cotune hashes` writes such"
        )
    if value == NO_HASH:
        raise DataError(
            f"{path}, row {row}, column hash: the hash 0 is that of an image of one shade, which says nothing; remove "
            "the row"
        )
    return value


@dataclass
class Hashed:
    """What was made of images.

    Attributes
    ----------
    written : int
        Hashes that were written.
    unreadable, flat : list of str
        Names of images that cannot be read, and of those that are all or mostly of one shade.
    """

    written: int = 0
    unreadable: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)


def write_known(path: Path, images: Iterable[tuple[str, Fingerprint | None]]) -> Hashed:
    """Write the hashes of images as a table that :func:`read_known` reads; equal ones once, under the first name.

    Parameters
    ----------
    path : Path
        A .csv file.
    images : iterable of (str, Fingerprint or None)
        The name of each image, and its fingerprint; None for one that cannot be read.
    """
    import csv

    found = Hashed()
    seen: set[int] = set()

    def rows() -> Iterator[tuple[str, str, str]]:
        for name, mark in images:
            look = telling_look(mark)
            if mark is None or not mark.readable:
                found.unreadable.append(name)
            elif look == NO_HASH:
                found.flat.append(name)
            elif look not in seen:
                seen.add(look)
                found.written += 1
                yield f"{look:016x}", name, ALGORITHM

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(UnixLines(file))
        writer.writerow(COLUMNS)
        writer.writerows(rows())
    return found
