"""HTML pages from templates: the one Jinja environment. Every page is a file that needs nothing else.

All values are escaped: whatever a post, a label or a file says is text and never markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from cotune.report.numbers import count, interval, number, p_value, percent, plural, signed


@dataclass(frozen=True)
class Script:
    """The one script of a page, and the hash by which the page allows it and no other."""

    source: Markup
    hash: str


def render(template: str, *, script: str | None = None, **values: Any) -> str:
    """Return the page, or piece of a page, that a template makes of some values.

    Parameters
    ----------
    template : str
        Name of a file in ``cotune/report/templates``.
    script : str, optional
        Name of a file there that a page runs as its script.
    **values
        What the template shows; one that it lacks is an error.
    """
    return _environment().get_template(template).render(script=script and _script(script), **values)


def render_source(source: str, **values: Any) -> str:
    """Return the page that a template, given as text, makes of some values; it may include those of this package."""
    return _environment().from_string(source).render(**values)


@cache
def style_sheet(name: str) -> Markup:
    """Return a style sheet of ``cotune/report/templates``, to be put into a page."""
    return Markup(_read(name))  # noqa: S704 - a file of the package


def standalone(drawing: Markup) -> str:
    """Return a drawing as an SVG file of its own, with its colours for light and dark and a ground to stand on."""
    head, rest = str(drawing).split(">", 1)
    _, _, width, height = (float(v) for v in re.findall(r'viewBox="([^"]*)"', head)[0].split())
    sheets = str(style_sheet("report.css") + style_sheet("charts.css"))
    light, dark = (re.findall(rf"^{indent}:root {{.*?}}", sheets, re.M | re.S) for indent in ("", "  "))
    rules = re.findall(r"^(?:svg|\.c\d) .*", sheets, re.M)
    font = 'svg { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }'
    style = "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}", font, *rules])
    head = head.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" ', 1)
    ground = '<rect width="100%" height="100%" rx="6" style="fill:var(--card)"/>'
    return f"{head}><style>{style}</style>{ground}{rest}\n"


@cache
def _script(name: str) -> Script:
    source = _read(name)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Script(Markup(source), f"sha256-{digest}")  # noqa: S704 - a script of the package


def _read(name: str) -> str:
    return (files("cotune.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": count, "number": lambda value, digits=3: number(value, digits),
        "interval": lambda row, digits=3: interval(row, digits), "percent": percent, "signed": signed,
        "split_cell": split_cell, "plural": plural, "p_value": p_value,
    }  # fmt: skip
    return environment


def bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return what a table of bars shows of some counts: each with its part of the largest and its share of all."""
    most, total = max(counts.values(), default=0) or 1, sum(counts.values()) or 1
    return [{"name": name, "n": n, "part": n / most, "share": n / total} for name, n in counts.items()]


def split_cell(words: str) -> tuple[str, str]:
    """Return a number and what stands behind it (interval, spread, corrected p-value), for a second line."""
    for mark in (" ± ", " [", " (", " → "):
        first, found, rest = words.partition(mark)
        if found and first.strip("+−<. ").replace(".", "").isdigit():
            return first, mark.strip() + (" " if mark.endswith(" ") else "") + rest
    return words, ""
