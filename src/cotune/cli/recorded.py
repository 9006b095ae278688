"""What a run records of the command that made it, so that ``reproduce`` reads the same tables in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.cli.table_options import TableOptions
from cotune.errors import CotuneError
from cotune.run_settings import read_settings

if TYPE_CHECKING:
    import pandas as pd

    from cotune.run import Run
    from cotune.settings import FitConfig


def record(posts: Path, table: TableOptions, **more: Any) -> dict[str, Any]:
    """Return what to keep of a fit: the posts table, how it was read, and `more` as it was given."""
    usual = asdict(TableOptions())
    kept = {name: value for name, value in asdict(table).items() if value != usual[name]}
    return {
        "posts": None if str(posts) == "-" else str(posts),
        "folder": str(Path.cwd()),
        "table": {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()},
        **{name: value for name, value in more.items() if value},
    }


class Recorded:
    """The record of a run; one that was made in Python, or by an older version, has little in it.

    Parameters
    ----------
    folder : Path
        The run, for messages.
    run : Run
        The same, opened.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        made: Mapping[str, Any] = run.environment.get("made_from") or {}
        self._name, self.run, self._made = folder, run, made
        self.allow_remote = bool(made.get("allow_remote"))
        given = made.get("table", {})
        known = {each.name: given[each.name] for each in fields(TableOptions) if each.name in given}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        table = TableOptions(**known)
        self.table = replace(table, labels_from=table.labels_from and self._there(str(table.labels_from), "decisions"))

    def _path(self, name: str) -> Path:
        """Return where a path leads that was given in the folder where `fit` was called."""
        return Path(self._made.get("folder", "")) / Path(name).expanduser()

    def _there(self, name: str, what: str) -> Path:
        path = self._path(name)
        if not path.exists():
            raise CotuneError(f"the {what} that {self._name} was made with are gone: {path}; put them back there")
        return path

    def posts(self, given: Path | None) -> Path:
        """Return the posts table: the one that is given, or that of the record."""
        if given is not None:
            return given
        name = self._made.get("posts")
        if name is None:
            raise CotuneError(f"{self._name} does not say which table it was trained on; name it with --posts")
        if not (path := self._path(name)).exists():
            raise CotuneError(
                f"the posts table that {self._name} was trained on is gone: {path}; where it is now, --posts says"
            )
        return path

    def config(self) -> FitConfig:
        """Return the settings, with paths that lead somewhere from here."""
        config = self.run.config
        update: dict[str, Any] = {"also": tuple(str(self._there(name, "posts of --also")) for name in config.also)}
        if isinstance(config.validation, str):
            update["validation"] = str(self._there(config.validation, "validation posts"))
        for name in ("text_encoder", "image_encoder", "cache", "rule"):
            value = getattr(config, name)
            if value is not None and not Path(value).exists() and self._path(value).exists():
                update[name] = str(self._path(value))
        return config.model_copy(update=update)

    def read(self, posts: Path, config: FitConfig) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """Return the posts to train on, with those of further tables, and those of a validation table."""
        from cotune.cli.train import read_tables

        where = TableOptions(where=tuple(self._made.get("validation_where", ()))).rows()["where"]
        return read_tables(posts, config, self.table.columns(config.fields), self.table, {"where": where})

    def start(self) -> Path | None:
        """Return the run that it started from, None if it began with pretrained encoders.

        Raises
        ------
        CotuneError
            If that run is not there, or not recorded.
        """
        if "started_from" not in self.run.metrics:
            return None
        name = self._made.get("start_from")
        if name is None:
            raise CotuneError(f"{self._name} was trained on from another run, and does not say where that one is")
        if str(name).startswith("hf:"):
            return Path(name)
        path = self._path(name)
        try:
            read_settings(path)
        except CotuneError:
            raise CotuneError(
                f"{self._name} was trained on from the run {path}, which is not there any more; put it back there"
            ) from None
        return path
