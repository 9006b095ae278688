"""Lines and marks over axes, as inline SVG: no script, no fonts, colours from the page's style sheet.

Charts of one model are in :mod:`cotune.report.run_charts`, intervals in :mod:`cotune.report.interval_charts`.

No value hangs on colour alone: every line has its own dashes, every mark its own shape and a name beside it, and
every number also stands in a table of its report. Colours are those of Okabe & Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from cotune.report.drawing import (
    DASHES,
    LOOKS,
    SHAPES,
    Scale,
    beside,
    cost_ticks,
    horizontal,
    mark,
    nice_ticks,
    short,
    svg,
    text,
)


@dataclass(frozen=True)
class Line:
    """One line of a chart: points, a name, and which of the looks it has."""

    name: str
    points: Sequence[tuple[float, float]]
    look: int
    band: Sequence[tuple[float, float]] = ()
    note: str = ""


@dataclass(frozen=True)
class Spot:
    """One mark of a scatter chart; a label, if it has one, stands beside it where there is room."""

    name: str
    x: float
    y: float
    look: int
    label: str = ""


def line_plot(
    lines: Sequence[Line],
    *,
    title: str,
    x_name: str,
    y_name: str,
    log: bool = False,
    x_ticks: Sequence[tuple[float, str]] = (),
    square: bool = False,
    diagonal: bool = True,
    finding: str = "",
) -> Markup:
    """Draw lines over a common axis, with bands where they have them.

    Parameters
    ----------
    lines : sequence of Line
        The lines.
    title, x_name, y_name : str
        Names.
    log : bool
        Whether the x axis is logarithmic.
    x_ticks : sequence of (float, str)
        Places and words along the x axis, if not the points' own.
    square : bool
        Both axes from 0 to 1, no marks.
    diagonal : bool
        Whether a square has the diagonal.
    finding : str
        What the drawing shows, for those who cannot see it.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    width, height = 360, 340 if square else 250
    left, right, top, bottom = 46, 348, 20, height - 36
    xs = [px for line in lines for px, _ in line.points]
    ys = [v for line in lines for v in (*(py for _, py in line.points), *(edge for band in line.band for edge in band))]
    y_ticks = [0, 0.25, 0.5, 0.75, 1.0] if square else nice_ticks(min(ys), max(ys))
    if not x_ticks:
        x_ticks = [(tick, f"{tick:g}") for tick in ([0, 0.25, 0.5, 0.75, 1.0] if square else sorted(set(xs)))]
    at = (lambda v: math.log(v)) if log else (lambda v: v)
    x_low, x_high = at(min(min(xs), x_ticks[0][0])), at(max(max(xs), x_ticks[-1][0]))
    x = Scale(x_low, x_high, left + (0 if square else 8), right - (0 if square else 8))
    y = Scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [horizontal(y, y_ticks, left, right)]
    last = -99.0
    for value, word in x_ticks:
        place = x(at(value))
        if place - last < 24:
            continue
        last = place
        parts.append(text("tick mid", place, bottom + 16, word))
    if square and diagonal:
        parts.append(Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(left, bottom, right, top))
    for line in lines:
        if line.band:
            over = [(px, high) for (px, _), (_, high) in zip(line.points, line.band, strict=True)]
            under = [(px, low) for (px, _), (low, _) in zip(line.points, line.band, strict=True)]
            around = " ".join(f"{x(at(px)):.1f},{y(py):.1f}" for px, py in [*over, *reversed(under)])
            parts.append(Markup('<polygon class="band c{}" points="{}"/>').format(line.look % LOOKS, around))
    for line in sorted(lines, key=lambda line: line.look == 0):
        path = " ".join(f"{x(at(px)):.1f},{y(py):.1f}" for px, py in line.points)
        parts.append(
            Markup('<polyline class="curve c{}" stroke-dasharray="{}" points="{}"><title>{}</title></polyline>').format(
                line.look % LOOKS, DASHES[line.look % LOOKS], path, line.name
            )
        )
        if not square:
            parts += [
                mark(SHAPES[line.look % LOOKS], x(at(px)), y(py), line.look, f"{line.name}, {px:g}: {py:.4f}")
                for px, py in line.points
            ]
    parts += [text("tick", 4, 11, y_name), text("tick end", right, height - 4, x_name)]
    return svg(width, height, parts, title, finding)


def legend(lines: Sequence[Line | Spot]) -> Markup:
    """Return the names of lines or spots beside their looks."""
    parts = []
    for line in lines:
        look = line.look % LOOKS
        drawn = Markup("")
        if isinstance(line, Line):
            drawn = Markup('<line class="curve c{}" stroke-dasharray="{}" x1="0" x2="36" y1="8" y2="8"/>').format(
                look, DASHES[look]
            )
        note = Markup(" <b>{}</b>").format(line.note) if isinstance(line, Line) and line.note else Markup("")
        parts.append(
            Markup('<li><svg viewBox="0 0 36 16" aria-hidden="true">{}{}</svg><span>{}{}</span></li>').format(
                drawn, mark(SHAPES[look], 18, 8, look, ""), line.name, note
            )
        )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(parts))


def scatter(spots: Sequence[Spot], *, title: str, x_name: str, y_name: str, kind: str, join: bool = False) -> Markup:
    """Draw marks over a logarithmic axis, joined where none that costs less is as good.

    Parameters
    ----------
    spots : sequence of Spot
        The marks.
    title, x_name, y_name : str
        Names.
    kind : {"parameters", "seconds"}
        How numbers along the x axis are written.
    join : bool
        Whether to join the marks of the front.
    """
    spots = [s for s in spots if math.isfinite(s.x) and math.isfinite(s.y) and s.x > 0]
    if not spots:
        return Markup("")
    ticks, unit = cost_ticks(min(s.x for s in spots), max(s.x for s in spots), kind)
    front = [
        s for s in sorted(spots, key=lambda s: (s.x, -s.y)) if all(o.y < s.y for o in spots if o.x <= s.x and o != s)
    ]
    tips = [replace(s, name=f"{s.name}: {s.y:.4f}, {short(s.x, unit)}") for s in spots]
    line = [(s.x, s.y) for s in front] if join and len(front) > 1 else []
    x_ticks = [(tick, short(tick, unit)) for tick in ticks]
    return point_plot(tips, title=title, x_name=x_name, y_name=y_name, log=True, x_ticks=x_ticks, line=line)


def point_plot(
    spots: Sequence[Spot],
    *,
    title: str,
    x_name: str,
    y_name: str,
    x_ticks: Sequence[tuple[float, str]],
    log: bool = False,
    line: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Draw marks over an axis.

    Parameters
    ----------
    spots : sequence of Spot
        The marks; their names are what is told when they are pointed at.
    title, x_name, y_name : str
        Names.
    x_ticks : sequence of (float, str)
        Places and words along the x axis; the first and the last are its ends.
    log : bool
        Whether the x axis is logarithmic.
    line : sequence of (float, float)
        Points that a dashed line joins.
    """
    if not spots:
        return Markup("")
    width, height, left, right, top, bottom = 360, 260, 46, 348, 20, 224
    at = (lambda v: math.log(v)) if log else (lambda v: v)
    y_ticks = nice_ticks(min(s.y for s in spots), max(s.y for s in spots))
    x = Scale(at(x_ticks[0][0]), at(x_ticks[-1][0]), left + 8, right - 8)
    y = Scale(y_ticks[0], y_ticks[-1], bottom - 6, top + 6)
    parts = [horizontal(y, y_ticks, left, right)]
    parts += [
        text("tick end" if tick == x_ticks[-1][0] else "tick mid", x(at(tick)), bottom + 16, word)
        for tick, word in x_ticks
        if word
    ]
    if line:
        path = " ".join(f"{x(at(px)):.1f},{y(py):.1f}" for px, py in line)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(path))
    for spot in sorted(spots, key=lambda s: s.look == 0):
        shape = SHAPES[spot.look % LOOKS]
        parts.append(mark(shape, x(at(spot.x)), y(spot.y), spot.look, spot.name, size=5.5))
    parts += beside([(x(at(s.x)), y(s.y), s.label) for s in spots], (left, top - 6, right, bottom))
    parts += [text("tick", 4, 11, y_name), text("tick end", right, height - 4, x_name)]
    best = max(spots, key=lambda s: s.y)
    return svg(width, height, parts, title, f"{len(spots)} marks; highest {best.name}")
