"""Pushing a run to the hub: its own files, without what they say of the machine it was trained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cotune._version import __version__
from cotune.checksums import checksums, sealed
from cotune.data.seen import SEEN
from cotune.errors import CotuneError, HubError, RunError
from cotune.files import read_json, to_json
from cotune.hub import hub_errors, reachable
from cotune.ownership import EXPORT, RUN
from cotune.report.card_metadata import CardDetails
from cotune.report.model_card import model_card
from cotune.run import Run
from cotune.run_settings import CARD, CONFIG, ENVIRONMENT, METRICS, SUMMARY, read_settings
from cotune.sharing.fetch import refuse_strange

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Small JSON files of encoders that may name the folder they came from, and the keys that do.
_CLEANED = {"encoder.json", "config.json", "preprocessor_config.json", "tokenizer_config.json"}
_SPECS = {"spec", "text_encoder", "image_encoder", "encoder", "validation"}
_NAMES = {"_name_or_path", "name_or_path"}
_LEFT_OUT = {ENVIRONMENT: {"command", "made_from"}, METRICS: {"notes"}}


@dataclass(frozen=True)
class Destination:
    """Where a run is pushed to.

    Attributes
    ----------
    repository : str
        ``OWNER/NAME``.
    revision : str or None
        A branch, which is made if there is none; None for the main one.
    private : bool
        Whether nobody else may see it.
    endpoint : str
        The hub.
    """

    repository: str
    revision: str | None
    private: bool
    endpoint: str


def refuse_export(folder: Path) -> None:
    """Refuse an export, as it cannot be explained, trained on or exported for another engine where it arrives.

    Raises
    ------
    RunError
        With what to push instead.
    """
    if EXPORT.owns(folder):
        raise RunError(f"{folder} is an export; push the run it was made of, which can be exported wherever it is used")


def prepare(folder: Path, run: Run, details: CardDetails) -> dict[str, Path | bytes]:
    """Return the files of a run that are pushed, by name: paths of those that are as they are, contents of the others.

    Paths, the command line and notes are left out of the small files, whose checksums are made again, and so are the
    hashes of the posts that were trained on, which tell whether somebody's post was among them. Whatever else
    lies in the folder (report, summary of the posts, checkpoint, predictions, files of the user) stays where it is.

    Parameters
    ----------
    folder : Path
        Where the run is.
    run : Run
        The same, opened, so that it is known to be whole.
    details : CardDetails
        What the user says for the model card.

    Raises
    ------
    RunError
        If it was written before runs had checksums.
    HubError
        If it names files that no run has.
    """
    settings = read_settings(folder)
    if "checksums" not in settings:
        raise RunError(f"{folder} has no checksums; write it again, with cotune.load({str(folder)!r}).save(...)")
    named = [name for name in settings["checksums"] if name not in (SUMMARY, SEEN)]
    refuse_strange(folder, named)
    files: dict[str, Path | bytes] = {name: folder / name for name in named}
    for name in files:
        if name in _LEFT_OUT or ("/" in name and PurePosixPath(name).name in _CLEANED):
            value = read_json(folder / name)
            public = {key: item for key, item in _public(value).items() if key not in _LEFT_OUT.get(name, ())}
            files[name] = folder / name if public == value else _content(public)
    recorded = {name: _checksum(folder, name, file) for name, file in files.items()}
    settings = {key: value for key, value in settings.items() if key != "checksum"}
    public = {"fit": {**_public(settings["fit"]), "cache": None}, "encoders": _public(settings["encoders"])}
    specs = {name: encoder.get("spec", "") for name, encoder in public["encoders"].items()}
    card = model_card(run.model, run.config, run.metrics, replace(details, specs=specs))
    return {CONFIG: _content(sealed(settings | public | {"checksums": recorded})), CARD: card.encode(), **files}


def _content(value: Any) -> bytes:
    return (to_json(value) + "\n").encode()


def _checksum(folder: Path, name: str, file: Path | bytes) -> dict[str, Any]:
    if isinstance(file, bytes):
        return {"bytes": len(file), "sha256": hashlib.sha256(file).hexdigest()}
    return checksums(folder, [name])[name]


def _public(value: Any) -> Any:
    """Return a JSON value without the folders of this machine that encoders and tables lie in."""
    if isinstance(value, dict):
        return {
            key: _without_folder(item, key in _SPECS)
            if isinstance(item, str) and key in _SPECS | _NAMES
            else _public(item)
            for key, item in value.items()
        }
    return [_public(item) for item in value] if isinstance(value, list) else value


def _without_folder(text: str, is_spec: bool) -> str:
    """Return a path without the folders it lies in; any other name of an encoder as it is.

    Parameters
    ----------
    text : str
        A path, or a name such as ``hf:OWNER/NAME``.
    is_spec : bool
        Whether names of the hub have a prefix, so that any other one with a slash is a path.
    """
    found = re.fullmatch(r"((?:clip:|timm:|local-dir:)*)(.+)", text, re.DOTALL)
    prefix, path = found.groups() if found else ("", text)
    windows = bool(re.match(r"[A-Za-z]:[\\/]|\\\\", path))
    local = windows or path.startswith(("/", "~", ".")) or (is_spec and "/" in path and ":" not in path)
    return f"{prefix}./{(PureWindowsPath if windows else PurePosixPath)(path).name}" if local else text


def push(files: Mapping[str, Path | bytes], to: Destination, *, message: str = "Push a run of cotune") -> str:
    """Upload what :func:`prepare` returned as one commit, and return its address.

    Raises
    ------
    HubError
        If there is no token, or it may not write there; if the repository holds something else than a run, or is
        public though it shall be private; if the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    with hub_errors(to.repository, to.endpoint):
        if constants.is_offline_mode():
            raise HubError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
        if not get_token():
            raise HubError("no token of the hub was found; log in with `hf auth login`, or set HF_TOKEN")
        if not reachable(to.endpoint):
            raise HubError(f"{to.endpoint} cannot be reached; check the network, or give --endpoint")
        api = HfApi(endpoint=to.endpoint, library_name="cotune", library_version=__version__)
        api.create_repo(to.repository, private=to.private or None, exist_ok=True)
        _refuse_public(api, to)
        if to.revision is not None:
            api.create_branch(to.repository, branch=to.revision, exist_ok=True)
        _refuse_foreign(api, to)
        added = [CommitOperationAdd(name, file) for name, file in files.items()]
        found = api.create_commit(to.repository, added, commit_message=message, revision=to.revision)
    return str(found.commit_url)


def _refuse_public(api: HfApi, to: Destination) -> None:
    """Refuse a repository that was there before and is public, if the run shall be private."""
    if to.private and not api.model_info(to.repository).private:
        raise HubError(
            f"{to.repository} exists and is public, so the run is not pushed; make it private in its settings, or "
            "choose another name"
        )


def _refuse_foreign(api: HfApi, to: Destination) -> None:
    """Refuse a repository whose ``config.json`` cotune did not write."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        theirs = api.hf_hub_download(to.repository, CONFIG, revision=to.revision)
    except EntryNotFoundError:
        return
    if not _is_run(theirs):
        raise HubError(f"{to.repository} holds another model, which would be replaced; choose another name")


def _is_run(config: str) -> bool:
    try:
        return RUN.wrote(CONFIG, read_json(config))
    except CotuneError:  # no JSON
        return False


def sizes(files: Mapping[str, Path | bytes]) -> Iterator[tuple[str, int]]:
    """Yield name and bytes of each file."""
    for name, file in files.items():
        yield name, len(file) if isinstance(file, bytes) else file.stat().st_size
