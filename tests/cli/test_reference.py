"""The written reference says what the program says."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import typer.main

from cotune.cli import app
from cotune.settings import FitConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference.md").read_text(encoding="utf-8")
STALE = "docs/reference.md is out of date; renew it with: python docs/make_reference.py"
MAKE = runpy.run_path(str(DOCS / "make_reference.py"))


def commands(group: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, command in group.commands.items():
        found[f"{name} {word}"] = command
        if hasattr(command, "commands"):
            found |= commands(command, f"{name} {word}")
    return found


def test_every_setting_stands_in_it_as_it_is() -> None:
    lines = MAKE["_settings"]()
    assert "\n".join(lines) in PAGE, STALE
    assert not [line for line in lines if line.endswith("|  |")], "a setting has no description"


def test_the_schema_is_current_and_tells_settings_from_mistakes() -> None:
    text = (DOCS / "settings.schema.json").read_text(encoding="utf-8")
    assert text == MAKE["schema"](), STALE
    schema = json.loads(text)
    assert schema["properties"].keys() == FitConfig.model_fields.keys()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["epochs"] == {
        "default": 3, "description": FitConfig.model_fields["epochs"].description, "maximum": 1000, "minimum": 1,
        "type": "integer",
    }  # fmt: skip
    assert schema["patternProperties"]["^lr-head$"] == {"$ref": "#/properties/lr_head"}


def test_every_command_and_option_stands_in_it_and_no_other() -> None:
    parts = re.split(r"^#+ `(cotune .*)`$", PAGE, flags=re.MULTILINE)
    written = dict(zip(parts[1::2], parts[2::2], strict=True))
    there = commands(typer.main.get_command(app), "cotune")
    assert written.keys() == there.keys(), STALE
    for name, command in there.items():
        options = {
            flag
            for option in command.get_params(typer.Context(command))
            if option.param_type_name == "option"
            for flag in [*option.opts, *option.secondary_opts]
            if flag.startswith("--")
        }
        listed = re.findall(r"^\* .*$", written[name], flags=re.MULTILINE)
        said = {flag for line in listed for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", line.split("`")[1])}
        assert said - {"--help"} == options - {"--help"}, f"{name}: {STALE}"
