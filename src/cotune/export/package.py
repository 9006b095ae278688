"""The folder of an export: what is in it, and opening it with everything verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cotune.checksums import damage, seal_holds
from cotune.errors import CotuneError, ExportError, first_line
from cotune.fields import Field
from cotune.files import read_json
from cotune.ownership import EXPORT
from cotune.tasks import Task, restore_task

ABOUT, GRAPH, README = "export.json", "model.onnx", "README.md"
OPENVINO = "openvino/model.xml"
FORMAT = 1


class _Task(BaseModel):
    name: str
    settings: dict[str, Any]


class _About(BaseModel):
    """What of ``export.json`` is relied on."""

    checksum: str
    reads: list[str]
    task: _Task
    fields: list[dict[str, Any]]


@dataclass(frozen=True)
class Export:
    """An export folder that was opened.

    Attributes
    ----------
    folder : Path
        Where it is.
    about : dict
        What ``export.json`` says.
    task : Task
        What the outputs mean.
    fields : tuple of Field
        What a post has.
    """

    folder: Path
    about: dict[str, Any]
    task: Task
    fields: tuple[Field, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields that the model reads, in the order of ``present``."""
        return tuple(self.about["reads"])

    def graph(self, engine: str) -> Path:
        """Return the file that an engine runs: its own, if there is one."""
        own = self.folder / OPENVINO
        return own if engine == "openvino" and own.is_file() else self.folder / GRAPH


def is_export(folder: Path) -> bool:
    """Tell whether a folder is an export, whole or not."""
    return (folder / ABOUT).is_file()


def open_export(folder: Path, *, verify: bool = True) -> Export:
    """Open an export.

    Parameters
    ----------
    folder : Path
        The folder that ``cotune export`` made.
    verify : bool
        Whether to compare its files with the checksums that were saved with them.

    Raises
    ------
    ExportError
        If it is no export, is damaged or edited, or was made by a later version.
    """
    if not is_export(folder):
        raise ExportError(f"{folder} is no export (it has no {ABOUT}); `cotune export RUN --out {folder}` makes one")
    again = "export the run again"
    try:
        about = read_json(folder / ABOUT)
    except CotuneError as error:
        raise ExportError(f"{error}; {again}") from error
    if not EXPORT.wrote(ABOUT, about):
        raise ExportError(f"{folder / ABOUT} was not written by cotune; give the folder that `cotune export` made")
    if not seal_holds(about):
        raise ExportError(f"{folder / ABOUT} was changed (its checksum differs); {again}")
    if not isinstance(about.get("format"), int) or about["format"] > FORMAT:
        raise ExportError(
            f"{folder} was made by cotune {about.get('cotune')}, which writes a newer form; update cotune"
        )
    try:
        _About.model_validate(about)
        if verify:
            for name, what in damage(folder, about["checksums"]):
                raise ExportError(f"{folder / name} {what}; {again}")
        task = restore_task(about["task"])
        fields = tuple(Field(**field) for field in about["fields"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{folder / ABOUT} cannot be read ({first_line(error, 200)}); {again}") from error
    return Export(folder, about, task, fields)
