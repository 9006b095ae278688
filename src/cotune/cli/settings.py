"""Flags for the settings of training, generated from their definition when a command is run or its help is shown."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from cotune.errors import ConfigError

_NAME = "flags"
# A parameter `flags: Flags = None` stands in a command's signature where the generated flags go, and receives those
# that were given, by the names of their settings.
Flags = Annotated[Any, typer.Option(parser=str, hidden=True)]
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


class SettingsCommand(TyperCommand):
    """A command with flags for settings.

    They are looked up when the command is called for, because pydantic takes longer to import than all commands.
    """

    def get_params(self, ctx: Any) -> Any:
        """Return all parameters, with those of the settings in the place of `flags`."""
        names = [param.name for param in self.params]
        if _NAME in names:
            at = names.index(_NAME)
            self.params[at : at + 1] = _options(self.name or "")
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Call the command with the settings that were given as one argument."""
        from cotune.settings import settings_of

        names = {item.name for item in settings_of() if self.name in item.flag_of}
        given = {name: ctx.params.pop(name) for name in names & ctx.params.keys()}
        ctx.params[_NAME] = {name: value for name, value in given.items() if value is not None}
        return super().invoke(ctx)


def _options(command: str) -> Any:
    """Return the options for the settings that `command` has flags for."""
    from cotune.settings import settings_of

    parameters = []
    for item in (item for item in settings_of() if command in item.flag_of):
        default = "" if item.default is None else f" \\[default: {item.default}]"
        option = typer.Option(
            f"--{item.name.replace('_', '-')}",
            help=item.help + default,
            rich_help_panel=item.panel,
            show_default=False,
            metavar=item.metavar,
        )
        # Typer takes no unions; what is not text is made a number by the settings.
        kind = str if str in get_args(item.type) else item.type
        kwargs: Any = {"default": None, "annotation": Annotated[kind | None, option]}
        parameters.append(inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, **kwargs))

    def takes(**_: Any) -> None: ...

    takes.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(takes)
    return typer.main.get_command(app).params


def key_values(pairs: list[str] | None) -> dict[str, Any]:
    """Return what `--set` was given, values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set takes key=value, as in --set layer-decay=0.8, not {pair!r}")
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(value)
        found[key.strip().replace("-", "_")] = value
    return found
