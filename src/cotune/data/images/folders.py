"""Which folders the images of a table are read from: its own, and those of raw data that the user has imported."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cotune.data.images.inline import is_inline
from cotune.data.images.sources import describe, is_url
from cotune.errors import clip

ALLOW_OUTSIDE = "--allow-outside"

_OWN_IMAGES = Path(__file__).parents[2] / "demo" / "data" / "images"  # the demo's come with the package

_MOST_FOLDERS = 16
_REMEMBERED = 50_000


class ImageFolders:
    """Tells whether an image lies in a folder that a table may name images of.

    Links are followed, both of folders and of the image itself.

    Parameters
    ----------
    folder : str
        The table's folder, or its URL.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        #: A table that was fetched has no folder on this machine.
        self._root = None if is_url(folder) else os.path.realpath(folder)
        self._others: list[str] | None = None
        self._real_paths = RealPaths()

    def refusal(self, image: str) -> str | None:
        """Return why an image is not read, a full path, a URL or a cell that holds it; None if it may be.

        URLs are fetched where ``--allow-remote`` says so, from anywhere.
        """
        if is_inline(image) or is_url(image) or self._is_within(image):
            return None
        return (
            f"the image {describe(image)} lies outside of the table's folder {clip(self.folder)}; if you trust the "
            f"table, {ALLOW_OUTSIDE} reads it (in Python: allow_outside=True)"
        )

    def _is_within(self, path: str) -> bool:
        real = self._real_paths.of(path)
        if self._root is not None and is_below(real, self._root):
            return True
        if self._others is None:
            self._others = [*imported_folders(), os.path.realpath(_OWN_IMAGES)]
        return any(is_below(real, folder) for folder in self._others)


class RealPaths:
    """Follows links, of folders and of files; a folder is looked at once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> str:
        """Return where a path leads; the path itself where it leads nowhere."""
        folder, name = os.path.split(path)
        real = self._folders.get(folder)
        if real is None:
            if len(self._folders) >= _REMEMBERED:
                self._folders.clear()
            real = self._folders[folder] = _realpath(folder)
        whole = os.path.join(real, name)  # noqa: PTH118
        try:
            return _realpath(whole) if os.path.islink(whole) else whole  # noqa: PTH114
        except ValueError:  # a NUL byte, which no file has
            return whole


def _realpath(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # links in a circle, a NUL byte: reading it will fail
        return path


def is_below(path: str, folder: str) -> bool:
    """Tell whether a path is a folder or is inside it; links in both must have been resolved."""
    path, folder = os.path.normcase(path), os.path.normcase(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def record_imported(images: Iterable[str], table_folder: Path) -> list[str]:
    """Note the folders of images that an import has found, so that tables may name them; return those that are new.

    They are kept in the user's own settings, as nothing that comes with a table can say what it may read.

    Parameters
    ----------
    images : iterable of str
        Their paths.
    table_folder : Path
        Folder of the table, which needs no note.

    Raises
    ------
    OSError
        If the note cannot be written.
    """
    own = os.path.realpath(table_folder)
    folders = {os.path.dirname(_realpath(image)) for image in images}  # noqa: PTH120
    if len(folders) > _MOST_FOLDERS:
        folders = {os.path.commonpath(folders)}
    known = imported_folders()
    new = sorted(
        folder
        for folder in folders
        if "\n" not in folder and not any(is_below(folder, there) for there in [own, *known])
    )
    if new:
        path = _imported_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="surrogateescape") as file:  # in one piece: others may do the same
            file.write("".join(f"{folder}\n" for folder in new))
    return new


def imported_folders() -> list[str]:
    """Return the folders of images that imports have noted."""
    try:
        text = _imported_path().read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, RuntimeError):
        return []
    # Where the disk was full half a path may stand; a root would allow all.
    lines = [line.strip() for line in text.split("\n")[:-1]]
    return [line for line in lines if os.path.isabs(line) and os.path.dirname(line) != line]  # noqa: PTH117, PTH120


def _imported_path() -> Path:
    """Return ``$XDG_CONFIG_HOME/cotune/image_folders.txt``, else ``~/.config/cotune/image_folders.txt``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "cotune" / "image_folders.txt"
