"""Write reference.md and settings.schema.json, next to this file, from the definition of the settings and the commands.

python docs/make_reference.py
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

from cotune.files import atomic_path
from cotune.settings import FitConfig, settings_of

TARGET = Path(__file__).with_name("reference.md")
SCHEMA = Path(__file__).with_name("settings.schema.json")


def reference() -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Written by `python docs/make_reference.py` from the program itself; a test tells when it is out of date.",
            "",
            *_settings(),
            "",
            "## Commands",
            "",
            _commands(),
        ]
    )


def _settings() -> list[str]:
    """Return a table of all settings of training."""
    lines = [
        "## Settings of training",
        "",
        "Given to `JointClassifier(...)` by name, in a file (`--config`), with `--set NAME=VALUE`, and the usual",
        "ones as options of `cotune fit` and `cotune bench`. A file can be checked while it is written: editors take",
        "[settings.schema.json](settings.schema.json). `clip` is read as `max_grad_norm`, its new name.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for item in settings_of():
        choices = ", ".join(f"`{choice}`" for choice in item.choices)
        default = "" if item.default in (None, ()) else f"`{item.default}`"
        lines.append(f"| `{item.name}` | {default} | {' '.join(part for part in (item.help, choices) if part)} |")
    return lines


def schema() -> str:
    """Return the JSON schema of a settings file; names with hyphens are as good as those with underscores."""
    found = FitConfig.model_json_schema()
    for name, field in found["properties"].items():
        for key in ("panel", "flag_of", "metavar", "title"):
            field.pop(key, None)
        if "_" in name:
            found.setdefault("patternProperties", {})[f"^{name.replace('_', '-')}$"] = {"$ref": f"#/properties/{name}"}
    found |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "cotune settings"}
    return json.dumps(found, indent=2) + "\n"


def _commands() -> str:
    """Return what Typer says of all commands, headings one level lower."""
    call = [sys.executable, "-m", "typer", "cotune.cli", "utils", "docs", "--name", "cotune"]
    printed = subprocess.run(call, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    printed = html.unescape(printed).split("\n", 2)[2].replace("\\[", "[")  # without the title
    return re.sub(r"^(#+ )", r"#\1", printed, flags=re.MULTILINE).strip() + "\n"


if __name__ == "__main__":
    for target, text in ((TARGET, reference()), (SCHEMA, schema())):
        with atomic_path(target) as path:
            path.write_text(text, encoding="utf-8")
