"""A run by its name on the hub. Nothing but what the run's own ``config.json`` names is downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cotune._version import __version__
from cotune.data.seen import SEEN
from cotune.errors import HubError, RunError, listed
from cotune.hub import PREFIX, cache_alone_when_offline, hub_errors, parse_repository
from cotune.run_settings import CONFIG, ENCODER_FOLDERS, ENVIRONMENT, LABELS, METRICS, WEIGHTS, read_settings

_LARGE = 5_000_000
_TOP = {LABELS, WEIGHTS, METRICS, ENVIRONMENT, SEEN}
#: Files of encoders: settings, vocabularies and weights in forms that run no code when they are read.
_OF_ENCODER = re.compile(
    rf"(?:{'|'.join(ENCODER_FOLDERS)})(?:/[\w-]+){{0,3}}/[\w-][\w.-]*\.(?:json|safetensors|txt|model|spm|codes|jinja)",
    re.ASCII,
)


def local_folder(run: str | Path, tell: Callable[[str], None] | None = None) -> Path:
    """Return the folder of a run, which is downloaded first if it is given as ``hf:OWNER/NAME[@REVISION]``.

    Files that are in the hub's cache already are not asked for again, and with ``HF_HUB_OFFLINE`` nothing is.

    Parameters
    ----------
    run : str or Path
        The run.
    tell : callable, optional
        Takes a line before a large download.

    Raises
    ------
    CotuneError
        If the hub has no such repository, may not be asked or cannot be reached, or if it holds no run.
    """
    name = Path(run).as_posix()
    if not name.startswith(PREFIX):
        return Path(run)
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    repository, revision = parse_repository(name.removeprefix(PREFIX))
    by: dict[str, Any] = {"library_name": "cotune", "library_version": __version__}
    with cache_alone_when_offline(), hub_errors(name, constants.ENDPOINT):
        config = Path(hf_hub_download(repository, CONFIG, revision=revision, **by))
        # From here on by its commit, so that a push in between makes no mixture of two runs.
        files = _files(name, config.parent)
        missing = sum(size for file, size in files.items() if not (config.parent / file).exists())
        if tell is not None and missing > _LARGE:
            tell(f"downloading {missing / 1e6:,.0f} MB of {name}")
        return Path(snapshot_download(repository, revision=config.parent.name, allow_patterns=list(files), **by))


def _files(name: str, folder: Path) -> dict[str, int]:
    """Return the files that a run consists of, and their bytes, by its ``config.json``.

    Raises
    ------
    HubError
        If it is none, has no checksums, or names files that no run has.
    """
    try:
        settings = read_settings(folder)
        recorded = settings["checksums"]
        sizes = {file: int(entry["bytes"]) for file, entry in recorded.items()}
    except RunError as error:
        raise HubError(f"{name} is no run that can be opened: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise HubError(f"{name} has no checksums of its files, so it is not opened; push the run again") from error
    if not {LABELS, WEIGHTS} <= sizes.keys():
        raise HubError(f"{name} has no checksums of its files, so it is not opened; push the run again")
    refuse_strange(name, sizes)
    return {CONFIG: 0, **sizes}


def refuse_strange(run: object, files: Iterable[str]) -> None:
    """Refuse a run whose ``config.json`` names files that no run has, or that run code when they are read.

    Raises
    ------
    HubError
        With the names.
    """
    strange = [file for file in files if file not in _TOP and not _OF_ENCODER.fullmatch(file)]
    if strange:
        raise HubError(f"{run} names files that no run has ({listed(strange, most=3, quote=True)})")
