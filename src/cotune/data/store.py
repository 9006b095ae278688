"""Arrays on disk, found again by the hash of what they were computed from.

Used for decoded pixels, pooled embeddings and the activations of frozen layers. The arrays lie one after
another in ``data.bin``, which is memory-mapped; ``index.sqlite`` says where. The index is written after the
data, so a process that is killed leaves nothing that could be read wrongly.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock

from cotune.errors import CotuneError
from cotune.files import read_json, write_json

#: Once this many bytes were read, the mapping's pages are given back, so that resident memory stays bounded.
_RELEASE_AFTER = 16 * 2**20


class StoreFullError(CotuneError):
    """The cache has reached its size limit."""


class ArrayStore:
    """Arrays of one type and row shape, each with any number of rows, under string keys.

    Parameters
    ----------
    folder : Path
        Where the arrays lie; made when absent. Several processes may share it.
    dtype : str
        NumPy type of the elements.
    row_shape : tuple of int
        Shape of one row. An array is stored as (rows, *row_shape).
    max_bytes : int, optional
        Size that the store may grow to at most.
    """

    def __init__(self, folder: Path, *, dtype: str, row_shape: Sequence[int], max_bytes: int | None = None) -> None:
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.row_shape = tuple(int(size) for size in row_shape)
        self.row_bytes = int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize
        self.max_bytes = max_bytes
        self._lock = FileLock(str(folder / "lock"))
        self._data = folder / "data.bin"
        self._places: dict[str, tuple[int, int]] = {}
        self._sums: dict[str, int] = {}  # checksums of arrays that were not looked at yet
        self._damaged = 0
        self._begun_again = False
        self._end = 0  # first byte that no indexed array uses
        self._seen = 0  # last row of the index that was read
        self._lost: list[str] = []
        self._version = 0
        self._map: np.memmap | None = None
        self._read_bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                if _is_damaged(folder):
                    _remove_store(folder, keep="lock")
                    self._begun_again = True
                self._make()
        except OSError as fault:
            raise CotuneError(
                f"cannot use the cache {folder}: {fault.strerror or fault}; name another place with --cache"
            ) from fault
        self.refresh()

    def _make(self) -> None:
        """Make the files that are not there yet."""
        form = {"dtype": self.dtype.str, "row_shape": list(self.row_shape)}
        if (self.folder / "store.json").exists():
            if store_settings(self.folder) != form:
                raise CotuneError(f"the cache {self.folder} holds arrays of another form; delete that folder")
        else:
            write_json(self.folder / "store.json", form)
        self._data.touch()
        with self._index() as index:
            # Numbers are not used again after a deletion, so that readers miss nothing.
            index.execute(
                "CREATE TABLE IF NOT EXISTS places "
                "(number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, start INTEGER, n INTEGER, sum INTEGER)"
            )
            if "sum" not in {row[1] for row in index.execute("PRAGMA table_info(places)")}:
                index.execute("ALTER TABLE places ADD COLUMN sum INTEGER")  # made by a cotune of before
            if not _version(index):
                index.execute(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1}")

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.folder / "index.sqlite", timeout=60)) as index, index:
                yield index
        except sqlite3.Error as fault:
            raise CotuneError(
                f"the cache {self.folder} cannot be used ({fault}); free some space, or delete that folder"
            ) from fault

    def refresh(self) -> None:
        """Learn what other processes have added."""
        with self._index() as index:
            version = _version(index)
            if version != self._version:  # another process has evicted the store and begun it again
                self._places, self._end, self._seen, self._lost, self._map = {}, 0, 0, [], None
                self._sums = {}
                self._version = version
            # Rows are only ever added, so what was read before need not be read again.
            rows = index.execute(
                "SELECT number, key, start, n, sum FROM places WHERE number > ? ORDER BY number", (self._seen,)
            ).fetchall()
        size = self._data.stat().st_size
        for self._seen, key, start, n, checksum in rows:
            end = start + n * self.row_bytes
            if end > size:  # a crash of the machine may have kept the index and lost the data
                self._lost.append(key)
                self._damaged += 1
                continue
            self._places[key] = (start, n)
            if checksum is not None:
                self._sums[key] = checksum
            self._end = max(self._end, end)
        os.utime(self.folder)  # marks the store as used, for eviction

    def __contains__(self, key: str) -> bool:
        return key in self._places and self._is_whole(key)

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return the keys that are not stored, or whose array is damaged, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def _is_whole(self, key: str) -> bool:
        """Compare an array with its checksum the first time that it is asked for, and forget a damaged one."""
        checksum = self._sums.pop(key, None)
        if checksum is None:
            return True
        if zlib.crc32(self._read(key).data) == checksum:
            return True
        if self._places.pop(key, None) is not None:
            self._lost.append(key)
            self._damaged += 1
        return False

    def notes(self) -> list[str]:
        """Return what was found to be damaged since this was asked last, for the user to know."""
        found = []
        if self._begun_again:
            found.append(f"note: the cache {self.folder} was damaged; it begins again")
        if self._damaged:
            are = "entry of the cache {} is" if self._damaged == 1 else "entries of the cache {} are"
            found.append(f"note: {self._damaged:,} {are.format(self.folder)} damaged, and computed again")
        self._begun_again, self._damaged = False, 0
        return found

    def lengths(self, keys: Sequence[str]) -> np.ndarray:
        """Return the number of rows of each array."""
        return np.fromiter((self._places[key][1] for key in keys), dtype=np.int64, count=len(keys))

    def add(self, keys: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        """Store arrays of shape (rows, *row_shape); a key already there is left as it is.

        Raises
        ------
        StoreFullError
            If the store would outgrow `max_bytes`; nothing is stored then.
        CotuneError
            If the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._make()
            self.refresh()
            new = {key: array for key, array in zip(keys, arrays, strict=True) if key not in self}
            if not new:
                return
            if self._lost:  # before other data takes the places that these rows name
                with self._index() as index:
                    index.executemany("DELETE FROM places WHERE key = ?", [(key,) for key in self._lost])
                self._lost = []
            with self._data.open("r+b") as file:
                places = self._append(file, new)
            with self._index() as index:
                index.executemany(
                    "INSERT INTO places (key, start, n, sum) VALUES (?, ?, ?, ?)",
                    [(key, *place) for key, place in places.items()],
                )
            self.refresh()
            for key in places:  # just written, which needs no look
                self._sums.pop(key, None)

    def _append(self, file: IO[bytes], new: dict[str, np.ndarray]) -> dict[str, tuple[int, int, int]]:
        # What lies beyond the last indexed byte was left by a killed process and is overwritten.
        end = self._end
        size = sum(array.shape[0] for array in new.values()) * self.row_bytes
        if self.max_bytes is not None and end + size > self.max_bytes:
            raise StoreFullError(
                f"the cache {self.folder} would outgrow its limit of {self.max_bytes / 1e9:.1f} GB; raise --cache-gb"
            )
        places = {}
        try:
            file.seek(end)
            for key, array in new.items():
                block = np.ascontiguousarray(array, dtype=self.dtype)
                if block.shape[1:] != self.row_shape:
                    raise ValueError(f"rows of shape {block.shape[1:]} do not fit a store of {self.row_shape}")
                content = block.tobytes()
                file.write(content)
                places[key] = (end, block.shape[0], zlib.crc32(content))
                end += block.nbytes
            file.flush()
        except OSError as fault:
            raise CotuneError(
                f"cannot write to the cache {self.folder}: {fault.strerror}; free some space or name another "
                "place with --cache"
            ) from fault
        return places

    def get(self, key: str) -> np.ndarray:
        """Return one array, shape (rows, *row_shape); a copy, which outlives the mapping.

        Raises
        ------
        KeyError
            If nothing is stored under `key`.
        """
        _, n = self._places[key]
        result: np.ndarray = self._read(key).view(self.dtype).reshape((n, *self.row_shape))
        return result

    def _read(self, key: str) -> np.ndarray:
        """Return the bytes of an array, a copy."""
        start, n = self._places[key]
        size = n * self.row_bytes
        if not size:
            return np.zeros(0, dtype=np.uint8)
        mapped = self._mapped(start + size)
        self._read_bytes += size
        block = np.array(mapped[start : start + size])
        if self._read_bytes > _RELEASE_AFTER:
            self._release()
        return block

    def _mapped(self, end: int) -> np.memmap:
        if self._map is None or len(self._map) < end:
            removed = CotuneError(
                f"the cache {self.folder} was removed while in use; run again, with a larger --cache-gb if "
                "several runs share it"
            )
            if not self._data.is_file():
                raise removed
            with self._index() as index:
                if _version(index) != self._version:  # it was begun again, and other arrays lie in these places
                    raise removed
            try:
                self._map = np.memmap(self._data, dtype=np.uint8, mode="r")
            except FileNotFoundError:
                raise removed from None
        return self._map

    def _release(self) -> None:
        self._read_bytes = 0
        raw = None if self._map is None else self._map._mmap  # type: ignore[attr-defined]
        if raw is not None and hasattr(mmap, "MADV_DONTNEED"):
            raw.madvise(mmap.MADV_DONTNEED)


def _version(index: sqlite3.Connection) -> int:
    """Return the number that a store drew when it was made."""
    return int(index.execute("PRAGMA user_version").fetchone()[0])


def evict(root: Path, max_bytes: int, keep: Sequence[Path] = ()) -> list[Path]:
    """Remove the least recently used stores below `root` until what is left fits into `max_bytes`.

    Parameters
    ----------
    root : Path
        Folder whose sub-folders are stores.
    max_bytes : int
        Limit for all of them together.
    keep : sequence of Path
        Stores in use, never removed.

    Returns
    -------
    list of Path
        The stores that were removed.
    """
    stores = [path.parent for path in root.glob("*/store.json") if _is_store(path.parent)]
    # Other processes may remove files, or whole stores, while these are looked at.
    sizes, used = {}, {}
    for store in stores:
        with suppress(OSError):
            used[store] = store.stat().st_mtime
            sizes[store] = sum(_size(file) for file in store.iterdir())
    total = sum(sizes.values())
    removed = []
    for store in sorted(sizes, key=used.__getitem__):
        if total <= max_bytes:
            break
        if store not in keep:
            _remove_store(store)
            total -= sizes[store]
            removed.append(store)
    return removed


def _is_store(folder: Path) -> bool:
    """Tell whether a folder below the cache is a store, and not a folder of somebody else who has a store.json."""
    with suppress(CotuneError):
        return store_settings(folder).keys() == {"dtype", "row_shape"}
    return False


def _is_damaged(folder: Path) -> bool:
    """Tell whether the settings or the index of a store are damaged; a full disk or a lock is something else."""
    if (folder / "store.json").is_file():
        try:
            store_settings(folder)
        except CotuneError:
            return (folder / "data.bin").is_file()  # else it may be a file of somebody else
    if not (folder / "index.sqlite").is_file():
        return False
    try:
        with closing(sqlite3.connect(folder / "index.sqlite", timeout=60)) as index:
            return bool(index.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except sqlite3.DatabaseError as fault:
        return getattr(fault, "sqlite_errorcode", 0) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _remove_store(folder: Path, keep: str = "") -> None:
    """Delete the files of a store but one, and its folder once it is empty."""
    # The settings last, so that what is left of a store counts as one.
    for name in ("data.bin", "index.sqlite", "index.sqlite-journal", "lock", "store.json"):
        if name == keep:
            continue
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0


#: Temporary folders that this process uses instead of caches that it cannot write to; they go with it.
_instead: dict[Path, tempfile.TemporaryDirectory[str]] = {}
_NOWHERE = Path("~/.cache/cotune")
_told: set[Path] = set()


def default_root() -> Path:
    """Return the cache folder: ``$COTUNE_CACHE``, else ``$XDG_CACHE_HOME/cotune``, else ``~/.cache/cotune``.

    Without any of them, as for a user without a home folder, it is a temporary folder of this process.
    """
    configured = os.environ.get("COTUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if configured:
            return Path(configured).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "cotune"
    except RuntimeError:
        return _instead_of(_NOWHERE)


def usable_root(root: Path, tell: Callable[[str], None]) -> Path:
    """Return a cache folder if it can be written to, and otherwise a temporary one of this process.

    Parameters
    ----------
    root : Path
        The cache folder; made when absent.
    tell : callable
        Told, once, why nothing is kept.
    """
    nowhere = root in _places_of_nobody()
    reason = "there is no home folder" if nowhere else _refusal(root) if root not in _instead else ""
    if reason is None:
        return root
    if reason and root not in _told:
        _told.add(root)
        name = "" if nowhere else f" {root}"
        tell(
            f"note: the cache{name} cannot be written to ({reason}); a temporary folder is used, and nothing is kept "
            "for later; --cache or COTUNE_CACHE names another place"
        )
    return root if nowhere else _instead_of(root)


def _refusal(root: Path) -> str | None:
    """Return why nothing can be written into a folder, which is made when absent; None if something can."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as fault:
        return fault.strerror or str(fault)
    return None


def _places_of_nobody() -> list[Path]:
    return [Path(_instead[_NOWHERE].name)] if _NOWHERE in _instead else []


def _instead_of(root: Path) -> Path:
    if root not in _instead:
        _instead[root] = tempfile.TemporaryDirectory(prefix="cotune-cache-")
    return Path(_instead[root].name)


def store_settings(folder: Path) -> dict[str, object]:
    """Return the element type and row shape that a store was made with."""
    try:
        found = read_json(folder / "store.json")
    except CotuneError as error:
        raise CotuneError(f"the cache is damaged ({error}); delete the folder {folder}") from error
    if not isinstance(found, dict):
        raise CotuneError(f"the cache is damaged (no settings in {folder / 'store.json'}); delete the folder {folder}")
    return found
