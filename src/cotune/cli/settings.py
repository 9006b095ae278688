"""Flags for the settings of training, generated from their definition when a command is run or its help is shown."""

from __future__ import annotations

import inspect
import re
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from cotune.cli.show import be_quiet
from cotune.cli.table_options import TableOptions, table_parameters
from cotune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from cotune.settings import FitConfig

# Parameters of these names in a command's signature stand for generated options: `flags` receives the settings that
# were given, by name; `table` what is said of the posts table.
_FLAGS, _TABLE, _QUIET = "flags", "table", "quiet"
Flags = Annotated[Any, typer.Option(parser=str, hidden=True)]
Table = Annotated[Any, typer.Option(parser=str, hidden=True)]
#: Commands that take the decisions of a review; others do not look at labels, or show what the table says.
_REVIEWED = ("bench", "calibrate", "check", "evaluate", "fit", "tune")
#: Ends the names of settings whose flags may be given for single fields.
_PER_FIELD = "_encoder"
_OF_FIELD = re.compile(r"([^:/\\=]+)=(.+)", re.DOTALL)
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML or JSON file of settings (see docs/settings.schema.json), or a run; flags take precedence.",
        rich_help_panel="Run",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting of training, such as layer-decay=0.8; repeatable.",
        metavar="KEY=VALUE",
        rich_help_panel="Run",
    ),
]


class _Help:
    """Help without boxes and padding where it is no terminal that shows it."""

    rich_markup_mode: Any
    #: Columns where no terminal says how many there are.
    width = 100

    def get_help(self, ctx: Any) -> str:
        """Return the help, or print it in boxes."""
        if sys.stdout.isatty():
            return super().get_help(ctx)  # type: ignore[misc,no-any-return]
        mode, self.rich_markup_mode = self.rich_markup_mode, None
        try:
            ctx.terminal_width = ctx.max_content_width = self.width
            return super().get_help(ctx).replace("\\[", "[")  # type: ignore[misc,no-any-return]
        finally:
            self.rich_markup_mode = mode


class Group(_Help, TyperGroup):
    """The program and its groups of commands."""

    width = 160  # each command's line whole


class Command(_Help, TyperCommand):
    """A command that takes ``--quiet``."""

    def get_params(self, ctx: Any) -> Any:
        """Return all parameters, with ``--quiet`` behind the others."""
        if all(param.name != _QUIET for param in self.params):
            self.params += _parameters_of(_takes_quiet)
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Call the command, and quietly if that is asked for."""
        if ctx.params.pop(_QUIET, False):
            be_quiet()
        return super().invoke(ctx)


def _takes_quiet(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes: results and errors alone.")
    ] = False,
) -> None: ...


class SettingsCommand(Command):
    """A command with flags for settings, and for the posts table.

    They are looked up when the command is called for, because pydantic takes longer to import than all commands.
    """

    def get_params(self, ctx: Any) -> Any:
        """Return all parameters, with the generated ones in the places of `flags` and `table`."""
        for name, make in (
            (_FLAGS, partial(_options, self.name or "")),
            (_TABLE, partial(_table_parameters, self.name or "")),
        ):
            names = [param.name for param in self.params]
            if name in names:
                at = names.index(name)
                self.params[at : at + 1] = make()
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Call the command with each group of generated options as one argument."""
        from cotune.settings import settings_of

        names = {item.name for item in settings_of() if self.name in item.flag_of}
        given = {name: ctx.params.pop(name) for name in names & ctx.params.keys()}
        takes = inspect.signature(self.callback).parameters if self.callback is not None else {}
        if _FLAGS in takes:
            ctx.params[_FLAGS] = _by_field(
                {name: value for name, value in given.items() if value not in (None, [], ())}
            )
        if _TABLE in takes:
            columns = inspect.signature(table_parameters).parameters.keys() & ctx.params.keys()
            ctx.params[_TABLE] = table_parameters(**{name: ctx.params.pop(name) for name in columns})
        return super().invoke(ctx)


def _by_field(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with encoders of single fields, given as FIELD=ENCODER, under ``field_encoders``."""
    of_fields: dict[str, str] = {}
    for name in [name for name in flags if name.endswith(_PER_FIELD)]:
        plain = []
        for value in flags.pop(name):
            found = _OF_FIELD.fullmatch(value)
            if found:
                of_fields[found[1]] = found[2]
            else:
                plain.append(value)
        if len(plain) > 1:
            raise ConfigError(
                f"--{name.replace('_', '-')} names {' and '.join(plain)}; say FIELD=ENCODER for single fields"
            )
        flags |= dict.fromkeys([name] if plain else [], "".join(plain))
    return {**flags, **({"field_encoders": of_fields} if of_fields else {})}


def settings_given(flags: dict[str, Any], pairs: list[str] | None, file: Path | None, table: TableOptions) -> FitConfig:
    """Return the settings that a file, `--set`, flags and the columns of the posts table make together."""
    from cotune.settings import make_config

    flags = dict(flags)
    encoders: dict[str, str] = flags.pop("field_encoders", {})
    config = make_config({"fields": table.fields(), **key_values(pairs), **flags}, file=file)
    if not encoders:
        return config
    fields = config.read_fields()
    unknown = [name for name in encoders if name not in {field.name for field in fields}]
    if unknown:
        names = [field.name for field in fields]
        raise ConfigError(
            f"there is no field {unknown[0]!r} for the encoder {encoders[unknown[0]]}"
            f"{did_you_mean(unknown[0], names)}; there are: {', '.join(names)}"
        )
    return config.model_copy(
        update={"fields": tuple(f.model_copy(update={"encoder": encoders.get(f.name, f.encoder)}) for f in fields)}
    )


def _options(command: str) -> Any:
    """Return the options for the settings that `command` has flags for."""
    from cotune.settings import settings_of

    parameters = []
    for item in (item for item in settings_of() if command in item.flag_of):
        default = "" if item.default in (None, ()) else f" \\[default: {item.default}]"
        of_field = item.name.endswith(_PER_FIELD)
        option = typer.Option(
            f"--{item.name.replace('_', '-')}",
            help=item.help + default,
            rich_help_panel=item.panel,
            show_default=False,
            metavar="[FIELD=]ENCODER" if of_field else item.metavar,
        )
        # Typer takes no unions; what is not text is made a number by the settings.
        kind: Any = list[str] if of_field or item.repeatable else str if str in get_args(item.type) else item.type
        kwargs: Any = {"default": None, "annotation": Annotated[kind | None, option]}
        parameters.append(inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, **kwargs))

    def takes(**_: Any) -> None: ...

    takes.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return _parameters_of(takes)


def _table_parameters(command: str) -> Any:
    """Return the options about the posts table that `command` has."""
    return [item for item in _parameters_of(table_parameters) if item.name != "labels_from" or command in _REVIEWED]


def _parameters_of(function: Any) -> Any:
    """Return the options that typer makes of a function's parameters."""
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return typer.main.get_command(app).params


def key_values(pairs: list[str] | None) -> dict[str, Any]:
    """Return what `--set` was given, values read as YAML."""
    from cotune.files import parse_yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set takes key=value, as in --set layer-decay=0.8, not {pair!r}")
        with suppress(ConfigError):
            value = parse_yaml(value, pair)
        found[key.strip().replace("-", "_")] = value
    return found
