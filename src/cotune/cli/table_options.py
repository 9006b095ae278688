"""Options about the posts table, which all commands that read one share: columns and rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from cotune.data.posts import ColumnNames, Tell
    from cotune.fields import Field

_COLUMNS, _ROWS, _IMAGES = "Columns of the posts table", "Rows of the posts table", "Images of the posts table"
Names = list[str] | None


@dataclass(frozen=True)
class TableOptions:
    """What the options say; empty where they were not given.

    Attributes
    ----------
    id, group : str
        Columns of ids and groups.
    text, image, table, label : tuple of str
        Columns of each kind.
    where : tuple of str
        Which rows, as in ``split=train``.
    format : str or None
        How to read the file.
    labels_from : Path or None
        Decisions on labels, which take precedence over the table's own.
    allow_outside : bool
        Whether images may lie outside of the table's folder.
    """

    id: str = "id"
    text: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    group: str = "group"
    where: tuple[str, ...] = ()
    format: str | None = None
    labels_from: Path | None = None
    allow_outside: bool = False

    def fields(self) -> tuple[Field, ...] | None:
        """Return the fields that the columns make; None if they are a text and an image, as usual."""
        from cotune.fields import fields_of_columns

        if len(self.text) < 2 and len(self.image) < 2 and not self.table:
            return None
        return fields_of_columns(self.text or ("text",), self.image or ("image",), self.table)

    def columns(self, fields: tuple[Field, ...] | None = None, kept: tuple[str, ...] = ()) -> ColumnNames:
        """Return the names of the columns.

        Parameters
        ----------
        fields : tuple of Field, optional
            What a run reads; the options may then say by ``FIELD=COLUMN`` where else it is found.
        kept : tuple of str
            Further columns that are read.
        """
        from cotune.data.posts import ColumnNames

        common: dict[str, Any] = {"id": self.id, "label": self.label, "group": self.group, "kept": kept}
        if fields is not None:
            return ColumnNames(fields=self._renamed(fields), **common)
        text, image = self.text or ("text",), self.image or ("image",)
        return ColumnNames(text=text, image=image, table=self.table, **common)

    def _renamed(self, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        found = {field.name: field for field in fields}
        for kind, columns in (("text", self.text), ("image", self.image), ("table", self.table)):
            mine = [field for field in fields if field.kind == kind]
            for given in columns:
                name, sign, column = given.partition("=")
                if sign and name in found:
                    found[name] = found[name].model_copy(update={"columns": (column,)})
                elif len(mine) == 1 and len(mine[0].columns) == len(columns):
                    found[mine[0].name] = mine[0].model_copy(update={"columns": tuple(columns)})
                elif given not in [column for field in mine for column in field.columns]:
                    raise ConfigError(self._unknown(kind, given, {field.name: field.columns for field in mine}))
        return tuple(found.values())

    @staticmethod
    def _unknown(kind: str, given: str, mine: Mapping[str, tuple[str, ...]]) -> str:
        if not mine:
            return f"the run reads no {kind} field; leave --{kind}-column out"
        name = given.partition("=")[0]
        return (
            f"--{kind}-column {given}: say FIELD=COLUMN, as the run reads the {kind} fields {', '.join(mine)}"
            f"{did_you_mean(name, mine)}"
        )

    def flags(self, *, where: bool = False) -> list[str]:
        """Return the flags that were given, for a command that reads such a table too; `where` keeps those of rows."""
        from cotune.data.images.folders import ALLOW_OUTSIDE

        named = {"id": (self.id,), "text": self.text, "image": self.image, "table": self.table, "label": self.label,
                 "group": (self.group,)}  # fmt: skip
        usual = TableOptions()
        defaults = {"id": (usual.id,), "label": usual.label, "group": (usual.group,)}
        words = [
            word
            for kind, columns in named.items()
            if columns != defaults.get(kind)
            for column in columns
            for word in (f"--{kind}-column", column)
        ]
        words += [word for given in self.where if where for word in ("--where", given)]
        words += ["--format", self.format] if self.format is not None else []
        return words + ([ALLOW_OUTSIDE] if self.allow_outside else [])

    def rows(self) -> dict[str, Any]:
        """Return what `--where`, `--format` and `--allow-outside` ask of the functions that read posts."""
        from cotune.data.tables.where import parse_where

        return {"where": parse_where(list(self.where)), "kind": self.format, "allow_outside": self.allow_outside}

    def reviewed(self, posts: pd.DataFrame, tell: Tell) -> pd.DataFrame:
        """Return the posts with the labels that `--labels-from` decides, and tell how many those are."""
        if self.labels_from is None:
            return posts
        from cotune.data.decisions import apply_decisions, read_decisions

        found, note = apply_decisions(posts, read_decisions(self.labels_from), partial=bool(self.where))
        tell(note)
        return found


def table_parameters(
    id_column: Annotated[str, typer.Option("--id-column", help="Column of the ids.", rich_help_panel=_COLUMNS)] = "id",
    text_column: Annotated[
        Names,
        typer.Option("--text-column", help="Column of the texts; repeatable: each is a field of its own. "
                     "\\[default: text]", rich_help_panel=_COLUMNS, metavar="COLUMN", show_default=False),
    ] = None,
    image_column: Annotated[
        Names,
        typer.Option("--image-column", help="Column of the image paths; repeatable. \\[default: image]",
                     rich_help_panel=_COLUMNS, metavar="COLUMN", show_default=False),
    ] = None,
    table_column: Annotated[
        Names,
        typer.Option("--table-column", help="Column of numbers or categories; repeatable: all are read together.",
                     rich_help_panel=_COLUMNS, metavar="COLUMN", show_default=False),
    ] = None,
    label_column: Annotated[
        Names,
        typer.Option("--label-column", help="Column of the labels; repeatable: columns of 0 and 1, one for each label. "
                     "\\[default: label]", rich_help_panel=_COLUMNS, metavar="COLUMN", show_default=False),
    ] = None,
    group_column: Annotated[
        str, typer.Option("--group-column", help="Column of groups that are kept together.", rich_help_panel=_COLUMNS)
    ] = "group",
    where: Annotated[
        Names,
        typer.Option("--where", help="Use only rows with this value, as in split=train; repeatable: several values of "
                     "a column are alternatives, several columns must all match.", metavar="COLUMN=VALUE",
                     rich_help_panel=_ROWS),
    ] = None,
    table_format: Annotated[
        str | None,
        typer.Option("--format", help="Format of POSTS, if its name does not tell: csv, tsv, jsonl, json, parquet or "
                     "xlsx.", metavar="FORMAT", rich_help_panel=_ROWS, show_default=False),
    ] = None,
    labels_from: Annotated[
        Path | None,
        typer.Option("--labels-from", help="Decisions on labels, as the review page of `cotune check --run` saves "
                     "them: labels are replaced, and excluded posts left out.", metavar="CSV", rich_help_panel=_ROWS,
                     show_default=False),
    ] = None,
    allow_outside: Annotated[
        bool,
        typer.Option("--allow-outside", help="Read images that lie outside of the table's folder, which is refused row "
                     "by row otherwise: only for tables that you trust.", rich_help_panel=_IMAGES,
                     show_default=False),
    ] = False,
) -> TableOptions:  # fmt: skip
    """Return what these options say; they stand in a command's help where `table: Table = None` stands in it."""
    return TableOptions(
        id_column,
        tuple(text_column or ()),
        tuple(image_column or ()),
        tuple(table_column or ()),
        tuple(label_column or ("label",)),
        group_column,
        tuple(where or ()),
        table_format,
        labels_from,
        allow_outside,
    )
