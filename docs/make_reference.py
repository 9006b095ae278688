"""Write reference.md, next to this file, from the command line's own help and the settings' own descriptions.

python docs/make_reference.py
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

from cotune.config import FitConfig
from cotune.files import atomic_path

TARGET = Path(__file__).with_name("reference.md")


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
        "ones as options of `cotune fit` and `cotune bench`.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in FitConfig.model_fields.items():
        choices = re.findall(r"'([^']+)'", str(field.annotation)) if "Literal" in str(field.annotation) else []
        meaning = "; ".join(part for part in (field.description, ", ".join(f"`{c}`" for c in choices)) if part)
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {meaning} |")
    return lines


def _commands() -> str:
    """Return what Typer says of all commands, headings one level lower."""
    call = [sys.executable, "-m", "typer", "cotune.cli", "utils", "docs", "--name", "cotune"]
    said = subprocess.run(call, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    said = html.unescape(said).split("\n", 2)[2].replace("\\[", "[")  # without the title
    return re.sub(r"^(#+ )", r"#\1", said, flags=re.MULTILINE).strip() + "\n"


if __name__ == "__main__":
    with atomic_path(TARGET) as path:
        path.write_text(reference(), encoding="utf-8")
