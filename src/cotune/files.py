"""Writing files so that a crash or a full disk never harms what is already there."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cotune.errors import ConfigError, CotuneError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file system does not allow a file this large; choose another place",
    errno.EACCES: "writing there is not permitted; choose another place or change the permissions",
    errno.EPERM: "writing there is not permitted; choose another place or change the permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.ENOTDIR: "a file is in the way where a folder should be; choose another name",
    errno.EEXIST: "a file is in the way where a folder should be; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
MOST_VALUES = 100_000
"""Most values that a YAML file may stand for."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NATIVE = re.compile(r"\(os error (\d+)\)")
#: A temporary name: the machine and the process that write, something random, and the name that it is going to have.
_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{8})-([0-9a-f]+)-[0-9a-f]{4}-(.*)", re.DOTALL)
#: Folders in which this process has looked for what others left unfinished.
_looked_into: set[str] = set()


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, directory: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    Parent folders are made. When the block raises, the temporary file is removed and `path` stays as it was. What
    processes of this machine that were killed left unfinished in the same folder is removed as well.

    Parameters
    ----------
    path : path
        Where the result shall lie.
    directory : bool
        Make a folder instead of a file; a folder already there is replaced as a whole.

    Yields
    ------
    pathlib.Path
        The temporary file (not yet created) or folder (created), with the same suffix as `path`.

    Raises
    ------
    CotuneError
        When the disk is full or the place cannot be written to.
    """
    target = Path(path)
    temporary = target.parent / _temporary_name(target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        if directory:
            if target.exists() and not target.is_dir():
                raise OSError(errno.EEXIST, "a file is in the way", str(target))
            temporary.mkdir()
        elif target.is_dir():
            raise OSError(errno.EISDIR, "a folder is in the way", str(target))
        yield temporary
        if directory:
            _swap_folder(temporary, target)
        else:
            _flush(temporary)
            temporary.replace(target)
    except BaseException as error:
        remove(temporary)
        reason = _reason(error, target)
        if reason is None:
            raise
        raise CotuneError(f"cannot write {target}: {reason} (nothing already written was changed)") from error


def _reason(error: BaseException, target: Path) -> str | None:
    """Say why writing `target` failed, or None when the error is about something else."""
    if isinstance(error, OSError) and error.errno in _REASONS:
        if error.errno in _FULL or error.filename is None:
            return _REASONS[error.errno]
        # Another file (say an input that may not be read) can raise the same codes inside the block.
        named = Path(os.fsdecode(error.filename))
        near = named == target or target.parent == named or named in target.parents
        temporary = named.name.startswith(".tmp-") or any(p.name.startswith(".tmp-") for p in named.parents)
        return _REASONS[error.errno] if near or temporary else None
    # Native writers (safetensors, SQLite) only pass on words: the system's, with its number, or their own.
    said = str(error) if isinstance(error, Exception) else ""
    number = _NATIVE.search(said)
    if number is not None:
        return _REASONS.get(int(number[1]))
    full = ("no space left on device", "disk is full")
    return _REASONS[errno.ENOSPC] if any(words in said.lower() for words in full) else None


def _flush(path: Path) -> None:
    """Push the file's bytes to the disk, so that a power cut after the rename cannot leave it empty."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap_folder(new: Path, target: Path) -> None:
    """Put folder `new` in the place of `target`; what was there goes away only afterwards."""
    if not target.exists():
        new.replace(target)
        return
    old = target.parent / _temporary_name(f"old-{target.name}")
    target.replace(old)
    try:
        new.replace(target)
    except OSError:
        old.replace(target)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what processes that were killed while they wrote `path` by :func:`atomic_path` left beside it.

    For those who know that nobody else writes `path`, as the processes may have been those of another machine.
    """
    with suppress(OSError):
        for left in path.parent.iterdir():
            found = _TEMPORARY.fullmatch(left.name)
            if found is not None and found[3] == path.name:
                remove(left)


def _temporary_name(name: str) -> str:
    return f".tmp-{_machine()}-{os.getpid():x}-{secrets.token_hex(2)}-{name}"


@functools.cache
def _machine() -> str:
    """Return what tells this machine, or container, from others that write to the same disk."""
    about = platform.node()
    with suppress(OSError):
        about += str(Path("/proc/self/ns/pid").readlink())
    with suppress(OSError):
        about += Path("/etc/machine-id").read_text(encoding="utf-8", errors="replace")
    return hashlib.blake2b(about.encode("utf-8", "replace"), digest_size=4).hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Delete temporary files whose process ran on this machine and is gone; each process looks once into a folder."""
    if str(folder) in _looked_into:
        return
    _looked_into.add(str(folder))
    with suppress(OSError):
        for left in folder.iterdir():
            found = _TEMPORARY.fullmatch(left.name)
            if found is not None and found[1] == _machine() and not _lives(int(found[2], 16)):
                remove(left)


def _lives(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 does more than ask
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return a path without links, as :meth:`pathlib.Path.resolve` does, which raises where they lead in a circle."""
    return Path(os.path.realpath(path))


def write_at(path: str | os.PathLike[str], start: int, content: bytes) -> None:
    """Write `content` into a file from byte `start` on, as its new end; the file is made if it is not there.

    When writing fails or is interrupted, the file ends at `start`.

    Raises
    ------
    CotuneError
        When the disk is full or the place cannot be written to.
    """
    target = Path(path)
    handle = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        os.ftruncate(handle, start)
        os.lseek(handle, start, os.SEEK_SET)
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    except BaseException as error:
        if handle is not None:
            with suppress(OSError):
                os.ftruncate(handle, start)
        reason = _reason(error, target)
        if reason is None:
            raise
        raise CotuneError(f"cannot write {target}: {reason} (nothing already written was changed)") from error
    finally:
        if handle is not None:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="replace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as readable JSON, atomically; NaN and infinities become null, as JSON has none."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return `value` as strict JSON; numpy values, paths and sets become plain ones."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates have no UTF-8 form, but JSON can escape them
        return json.dumps(plain(value), ensure_ascii=True, indent=indent, allow_nan=False)
    return text


def plain(value: Any) -> Any:
    """Return `value` as what JSON knows: numpy values, paths and sets become plain ones, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON value in the file `path`.

    Raises
    ------
    CotuneError
        When the file is missing, cannot be read, or holds no JSON (with the line).
    """
    name = Path(path)
    try:
        content = name.read_bytes()
    except FileNotFoundError as error:
        raise CotuneError(f"{name} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise CotuneError(f"{name} is a folder; name a JSON file") from error
    except OSError as error:
        raise CotuneError(f"{name} cannot be read: {error.strerror}") from error
    return parse_json(content, str(name))


def parse_json(content: bytes, name: str) -> Any:
    """Return the JSON value that `content` is; `name` is for messages.

    Raises
    ------
    CotuneError
        If it is none, or none that Python can hold.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CotuneError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise CotuneError(f"{name} is not valid JSON, line {error.lineno} column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise CotuneError(f"{name} is nested too deeply to be read") from error
    except ValueError as error:  # a number of thousands of digits
        raise CotuneError(f"{name} is JSON that cannot be read: {error}") from error


def read_yaml(path: str | os.PathLike[str], *, missing: str | None = None) -> Any:
    """Return the value in the YAML file `path`; one that ends in ``.json`` is read as JSON.

    Parameters
    ----------
    path : path
        The file.
    missing : str, optional
        What to say if there is no such file.

    Raises
    ------
    ConfigError
        When the file is missing, cannot be read, or holds no YAML, or more values than a person writes.
    """
    name = Path(path)
    try:
        content = name.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(missing or f"{name} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"{name} cannot be read: {reason}") from error
    if name.suffix == ".json":
        try:
            return parse_json(content, str(name))
        except CotuneError as error:
            raise ConfigError(str(error)) from error
    try:
        return parse_yaml(content.decode("utf-8-sig"), str(name))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def parse_yaml(text: str, name: str) -> Any:
    """Return the value that YAML describes, built of plain values alone; `name` is for messages.

    Raises
    ------
    ConfigError
        If it is no YAML, contains itself, or stands for more than `MOST_VALUES` values once its aliases are followed.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
        _refuse_many(value, {})
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply, or contains itself") from error
    except Exception as error:  # PyYAML raises what its constructors raise, an AttributeError for a wrong timestamp
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    return value


def _refuse_many(value: Any, known: dict[int, int]) -> int:
    """Return how many values `value` stands for; a few lines of aliases can stand for more than a memory holds."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in known:
        inside = [*value, *value.values()] if isinstance(value, dict) else list(value)
        known[id(value)] = 1 + sum(_refuse_many(one, known) for one in inside)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
    return known[id(value)]
