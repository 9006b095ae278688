"""Where people read: colour and width on a terminal, plain whole lines in a pipe or file.

Colours follow NO_COLOR and FORCE_COLOR (https://no-color.org, https://force-color.org), which rich reads; width and
bars depend on whether the stream itself is a terminal, so that FORCE_COLOR in a pipe brings colours and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

#: Columns of what is no terminal: a table keeps its cells whole, a line stays one line.
_ENDLESS = 100_000
_STYLES = {"error:": "red", "note:": "yellow"}
# Controls that would move the cursor, change colours or retitle the window, and marks that turn the direction of what
# follows: whoever wrote a post is not who prints on this terminal.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_END = re.compile(r"(?: |\x1b\[[0-9;]*m)+$", re.MULTILINE)


def is_terminal(console: Console) -> bool:
    """Tell whether somebody watches a stream, whatever the variables about colours say."""
    try:
        return console.file.isatty()
    except (AttributeError, ValueError):  # no real stream, or one that is closed
        return False


def open_console(*, stderr: bool = False) -> Console:
    """Return a console for standard output, or standard error, as wide as the terminal; in a pipe without an end."""

    def make(width: int | None) -> Console:
        return _console_class()(stderr=stderr, highlight=False, emoji=False, force_jupyter=False, width=width)

    console = make(None)
    return console if is_terminal(console) else make(_ENDLESS)


def printable(text: str) -> str:
    r"""Return `text` with control characters written out, as in ``\x1b``."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


@cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        """Prints no control characters of the texts that it is given: labels and names may come from strangers."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return PlainConsole


def show(*parts: RenderableType) -> None:
    """Print tables and lines on standard output, without blanks at their ends."""
    console = open_console()
    with console.capture() as captured:
        for part in _untitled(parts):
            if isinstance(part, str):
                console.print(wrapped(printable(part), console.width), markup=False, soft_wrap=True)
            else:
                console.print(part)
    console.file.write(_LINE_END.sub(lambda end: end[0].replace(" ", ""), captured.get()))
    console.file.flush()


def _untitled(parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """Yield parts with the titles of tables before them, as a title within is wrapped to the width of its columns."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    for part in parts:
        if isinstance(part, Group):
            yield from _untitled(part.renderables)
            continue
        if isinstance(part, Table) and part.title:
            yield Text(str(part.title), style=part.title_style or "")
            part.title = None
        yield part


def tell(line: str, console: Console | None = None) -> None:
    """Print a line for people on standard error: red for errors, yellow for notes, wrapped at words on a terminal."""
    console = console or open_console(stderr=True)
    style = next((style for word, style in _STYLES.items() if line.startswith(word)), None)
    console.print(wrapped(printable(line), console.width), style=style, markup=False, soft_wrap=True)
    console.file.flush()


def wrapped(text: str, width: int) -> str:
    """Return lines broken between words; a longer word, such as a path, stays whole, so that it can be copied."""
    from rich.cells import cell_len

    lines = []
    for line in text.split("\n"):
        at, indent = "", "  " if line.startswith("- ") else ""
        for word in line.split(" "):
            if at.strip() and cell_len(at) + 1 + cell_len(word) > width:
                lines.append(at)
                at = indent + word
            else:
                at = f"{at} {word}" if at else word
        lines.append(at)
    return "\n".join(lines)
