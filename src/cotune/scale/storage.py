"""Folders and files by path or URL: listed, read and written through fsspec, with errors that say what to fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

from cotune.data.images.sources import file_url_path, is_url
from cotune.errors import ConfigError, CotuneError, DataError, clip, first_line
from cotune.files import atomic_path

T = TypeVar("T")
_S3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_GCS = "GOOGLE_APPLICATION_CREDENTIALS"
#: Where each kind of storage looks for credentials, and the extra that brings its client.
_CREDENTIALS = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
#: Errors of storage clients, by name, as the clients are not imported here.
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError",
                   "ProfileNotFound", "DefaultCredentialsError", "RefreshError", "TokenRetrievalError"}  # fmt: skip
_UNREACHABLE = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ClientConnectorError",
                "ServerTimeoutError", "ConnectionClosedError", "FSTimeoutError"}  # fmt: skip
_TRIES = 3


def is_remote(url: str) -> bool:
    """Tell whether `url` is not a path of this machine."""
    return is_url(url) and not url.lower().startswith("file://")


def full_name(url: str) -> str:
    """Return `url` as it means the same to every process: a URL, or an absolute path."""
    if is_remote(url):
        return url.rstrip("/")
    return os.path.abspath(file_url_path(url) if is_url(url) else url)  # noqa: PTH100 - as links are named


def refuse_remote(url: str, allow_remote: bool) -> None:
    """Refuse a URL that nobody has allowed.

    Raises
    ------
    ConfigError
        With the flag that allows it.
    """
    if is_remote(url) and not allow_remote:
        raise ConfigError(f"{clip(url)} is a URL; allow reading and writing by URL with --allow-remote")


@dataclass(frozen=True)
class Storage:
    """A folder by path or URL; it can be sent to another process, which opens it for itself.

    Attributes
    ----------
    url : str
        As :func:`full_name` returns it.
    """

    url: str

    def sizes(self) -> dict[str, int]:
        """Return the files in the folder with their sizes in bytes; none if there is no folder yet."""
        fs, path = open_url(self.url)
        with storage_errors(self.url):
            try:
                fs.invalidate_cache()
                found = fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        return {PurePosixPath(each["name"]).name: each["size"] for each in found if each["type"] == "file"}

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        fs, path = open_url(f"{self.url}/{name}")
        with storage_errors(f"{self.url}/{name}"):
            return bytes(fs.cat_file(path))

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a local path to write; when the block ends well the file appears in the folder, whole.

        On this machine it is renamed; a file by URL is sent in one piece, which object stores make visible as a whole.
        """
        if not is_remote(self.url):
            with atomic_path(Path(self.url) / name) as path:
                yield path
            return
        with TemporaryDirectory(prefix="cotune-") as folder:
            local = Path(folder) / name
            yield local
            fs, target = open_url(f"{self.url}/{name}")
            tried(f"{self.url}/{name}", lambda: fs.put_file(str(local), target))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self.file(name) as path:
            path.write_bytes(content)

    def remove(self, name: str) -> None:
        """Delete a file."""
        fs, path = open_url(f"{self.url}/{name}")
        with storage_errors(self.url):
            fs.rm_file(path)


def find_files(url: str) -> list[tuple[str, str, int]]:
    """Return the files at or below `url`: name below it, path or URL, and size, sorted by name.

    Raises
    ------
    CotuneError
        If there is nothing, or it cannot be listed.
    """
    fs, path = open_url(url)
    with storage_errors(url):
        fs.invalidate_cache()
        kind = fs.info(path)["type"]
        found = fs.find(path, detail=True) if kind == "directory" else {path: fs.info(path)}
    root = PurePosixPath(path) if kind == "directory" else PurePosixPath(path).parent
    return sorted(
        (
            str(PurePosixPath(each).relative_to(root)),
            fs.unstrip_protocol(each) if is_remote(url) else each,
            info["size"],
        )
        for each, info in found.items()
    )


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a local path with the content of `url`; what had to be fetched is removed afterwards."""
    if not is_remote(url):
        yield Path(url)
        return
    with TemporaryDirectory(prefix="cotune-") as folder:
        local = Path(folder) / PurePosixPath(url).name
        fs, path = open_url(url)
        tried(url, lambda: fs.get_file(path, str(local)))
        yield local


def open_url(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it.

    Raises
    ------
    ConfigError
        If the client of such a storage is not installed.
    """
    import fsspec

    with storage_errors(url):
        fs, path = fsspec.core.url_to_fs(url)
        return fs, str(path)


def tried(url: str, act: Callable[[], T]) -> T:
    """Return what `act` returns, tried a few times, as a network may fail for a moment."""
    with storage_errors(url):
        for left in range(_TRIES - 1, -1, -1):
            try:
                return act()
            except (FileNotFoundError, PermissionError, ImportError):
                raise
            except Exception as error:
                if not left or type(error).__name__ in _NO_CREDENTIALS:
                    raise
    raise AssertionError("unreachable")  # pragma: no cover


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what the clients of storages raise into one line each."""
    try:
        yield
    except CotuneError:
        raise
    except ImportError as error:
        extra = _EXTRAS.get(_scheme(url))
        fix = f"pip install 'cotune[{extra}]'" if extra else "install it"
        raise ConfigError(f"{clip(url)} needs a package: {first_line(error)}; {fix}") from error
    except Exception as error:
        _raise_described(url, error)


def _raise_described(url: str, error: Exception) -> NoReturn:
    names = {kind.__name__ for kind in type(error).__mro__}
    shown, variables = clip(url), _CREDENTIALS.get(_scheme(url))
    words = clip(first_line(error))
    if names & _NO_CREDENTIALS:
        hint = f"set {variables}" if variables else "give its client credentials"
        raise ConfigError(f"there are no credentials for {shown}; {hint} (on every machine of a cluster)") from error
    if isinstance(error, FileNotFoundError):
        what = "check the path" if not is_remote(url) else f"check the bucket and the path ({words})"
        raise DataError(f"{shown} does not exist; {what}") from error
    if isinstance(error, PermissionError):
        hint = f"check {variables}, and what they permit" if variables else "check its permissions"
        raise ConfigError(f"access to {shown} is refused ({words}); {hint}") from error
    if names & _UNREACHABLE or isinstance(error, ConnectionError | TimeoutError):
        raise ConfigError(f"{shown} cannot be reached ({words}); check the network, and the server if you set "
                          "another") from error  # fmt: skip
    if isinstance(error, OSError | ValueError) or is_remote(url):
        raise DataError(f"{shown} cannot be used: {words}") from error
    raise error


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()
