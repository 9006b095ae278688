"""Results in a notebook: the terminal's tables as HTML in the notebook's colours, and styles that follow its theme.

Rules hold for elements of ours alone, so that nothing else in a notebook looks different for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cotune.report.pages import render, style_sheet

if TYPE_CHECKING:
    from rich.table import Table

#: What Jupyter (lab, notebook 7), VS Code and Colab write where they are dark, or light.
_DARK = '[data-jp-theme-light="false"], .vscode-dark, .vscode-high-contrast, [theme="dark"]'
_LIGHT = '[data-jp-theme-light="true"], .vscode-light, [theme="light"]'
_MEDIA = "@media screen and (prefers-color-scheme: dark)"
_VARIABLE = re.compile(r"--[\w-]+:[^;]+;")


def tables_html(tables: Sequence[Table], *, folded: Sequence[Table] = (), notes: Sequence[str] = ()) -> str:
    """Return tables as a piece of HTML; `notes` stand before them, those `folded` open when they are clicked.

    All that they hold is escaped.
    """
    return render(
        "notebook.html",
        style=style_sheet("notebook.css"),
        tables=[_cells(table) for table in tables],
        folded=[_cells(table) for table in folded],
        notes=notes,
    )


def _cells(table: Table) -> dict[str, Any]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": str(table.title or ""),
        "head": [str(column.header) for column in table.columns] if table.show_header else [],
        "right": [column.justify == "right" for column in table.columns],
        "rows": list(zip(*columns, strict=True)),
    }


def themed(css: str, scope: str) -> str:
    """Return a style sheet that follows the theme of the notebook rather than that of the system.

    Parameters
    ----------
    css : str
        A style sheet whose rule for `scope` sets variables, and sets them again within
        ``@media screen and (prefers-color-scheme: dark)``.
    scope : str
        The selector of that rule.
    """
    first, _, rest = css.partition(_MEDIA)
    dark = _VARIABLE.findall(rest[: rest.index("}")])
    names = {variable.partition(":")[0] for variable in dark}
    light = [variable for variable in _VARIABLE.findall(first) if variable.partition(":")[0] in names]
    themes = [f":is({where}) {scope} {{ {' '.join(what)} }}" for where, what in ((_DARK, dark), (_LIGHT, light))]
    return "\n".join([css, *themes])
