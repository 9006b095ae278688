"""The drawings of a benchmark's report: inline SVG, colours that the colour-blind can tell apart.

No value hangs on colour alone: every line has its own dashes, every mark its own shape and a name beside it,
and every number also stands in a table. Colours are those of Okabe & Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from cotune.report.plots import Scale, nice_ticks

SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "bar")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "6 2 1 2 1 2")
LOOKS = 8


@dataclass(frozen=True)
class Bar:
    """One row of :func:`interval_chart`.

    Attributes
    ----------
    name : str
        What it is called.
    value, low, high : float
        A figure and its interval.
    dots : sequence of float
        Single folds.
    other : float or None
        The paper's figure.
    strong : bool
        Whether to stress it.
    """

    name: str
    value: float
    low: float
    high: float
    dots: Sequence[float] = ()
    other: float | None = None
    strong: bool = False


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
    """One mark of a scatter chart."""

    name: str
    x: float
    y: float
    look: int
    front: bool = False


def interval_chart(bars: Sequence[Bar], *, title: str) -> Markup:
    """Draw figures with intervals, one below the other, single folds as small dots."""
    if not bars:
        return Markup("")
    every = [v for b in bars for v in (b.value, b.low, b.high, *b.dots, b.other) if v is not None and math.isfinite(v)]
    ticks = nice_ticks(min(every), max(every))
    left, right, top, step, width = 12, 348, 18, 42, 360
    height = top + step * len(bars) + 26
    x = Scale(ticks[0], ticks[-1], left, right)
    parts = [_vertical(x, ticks, 6, height - 24)]
    for i, bar in enumerate(bars):
        y = top + step * i + 20
        value = "" if not math.isfinite(bar.value) else f"{bar.value:.4f}"
        parts.append(
            Markup(
                '<text class="name{}" x="{}" y="{}">{}</text><text class="value end" x="{}" y="{}">{}</text>'
            ).format(" strong" if bar.strong else "", left, y - 11, bar.name, right, y - 11, value)
        )
        parts += [
            Markup('<circle class="fold" cx="{:.1f}" cy="{}" r="2.4"><title>fold {}: {:.4f}</title></circle>').format(
                x(v), y + 5, n + 1, v
            )
            for n, v in enumerate(bar.dots)
            if math.isfinite(v)
        ]
        if math.isfinite(bar.low):
            parts.append(
                Markup('<line class="whisk{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
                    " strong" if bar.strong else "", x(bar.low), x(bar.high), y, y
                )
            )
        if value:
            tip = f"{bar.name}: {value} [{bar.low:.4f}, {bar.high:.4f}]"
            look = 0 if bar.strong else 7
            parts.append(_mark("circle" if bar.strong else "square", x(bar.value), y, look, tip, size=5))
        if bar.other is not None:
            parts.append(
                Markup(
                    '<path class="paper" d="M{0:.1f} {1}l5 5l-5 5l-5 -5z"><title>paper: {2:.4f}</title></path>'
                ).format(x(bar.other), y - 5, bar.other)
            )
    return _svg(width, height, parts, title)


def line_plot(
    lines: Sequence[Line],
    *,
    title: str,
    x_name: str,
    y_name: str,
    log: bool = False,
    x_ticks: Sequence[tuple[float, str]] = (),
    square: bool = False,
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
        Both axes from 0 to 1 with the diagonal, no marks.
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
    parts = [_horizontal(y, y_ticks, left, right)]
    last = -99.0
    for value, word in x_ticks:
        place = x(at(value))
        if place - last < 24:
            continue
        last = place
        parts.append(_text("tick mid", place, bottom + 16, word))
    if square:
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
                _mark(SHAPES[line.look % LOOKS], x(at(px)), y(py), line.look, f"{line.name}, {px:g}: {py:.4f}")
                for px, py in line.points
            ]
    parts += [_text("tick", 4, 11, y_name), _text("tick end", right, height - 4, x_name)]
    return _svg(width, height, parts, title)


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
                drawn, _mark(SHAPES[look], 18, 8, look, ""), line.name, note
            )
        )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(parts))


def scatter(spots: Sequence[Spot], *, title: str, x_name: str, y_name: str, kind: str) -> Markup:
    """Draw marks over a logarithmic axis; those on the Pareto front are joined.

    Parameters
    ----------
    spots : sequence of Spot
        The marks.
    title, x_name, y_name : str
        Names.
    kind : {"parameters", "seconds"}
        How numbers along the x axis are written.
    """
    spots = [s for s in spots if math.isfinite(s.x) and math.isfinite(s.y) and s.x > 0]
    if not spots:
        return Markup("")
    width, height, left, right, top, bottom = 360, 260, 46, 348, 20, 224
    y_ticks = nice_ticks(min(s.y for s in spots), max(s.y for s in spots))
    x_ticks = log_ticks(min(s.x for s in spots), max(s.x for s in spots))
    x = Scale(math.log(x_ticks[0]), math.log(x_ticks[-1]), left + 8, right - 8)
    y = Scale(y_ticks[0], y_ticks[-1], bottom - 6, top + 6)
    parts = [_horizontal(y, y_ticks, left, right)]
    parts += [_text("tick mid", x(math.log(tick)), bottom + 16, short(tick, kind)) for tick in x_ticks]
    front = sorted((s for s in spots if s.front), key=lambda s: s.x)
    if len(front) > 1:
        path = " ".join(f"{x(math.log(s.x)):.1f},{y(s.y):.1f}" for s in front)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(path))
    for spot in sorted(spots, key=lambda s: s.look == 0):
        tip = f"{spot.name}: {spot.y:.4f}, {short(spot.x, kind)}"
        shape = SHAPES[spot.look % LOOKS]
        parts.append(_mark(shape, x(math.log(spot.x)), y(spot.y), spot.look, tip, size=5.5))
    parts += [_text("tick", 4, 11, y_name), _text("tick end", right, height - 4, x_name)]
    return _svg(width, height, parts, title)


def dumbbells(before: Sequence[float], after: Sequence[float], *, title: str) -> Markup:
    """Draw a pair of values for each fold, joined by a line."""
    values = [v for v in (*before, *after) if math.isfinite(v)]
    if not values:
        return Markup("")
    ticks = nice_ticks(min(values), max(values))
    width, top, step = 360, 14, 19
    height = top + step * len(before) + 24
    x = Scale(ticks[0], ticks[-1], 52, 348)
    parts = [_vertical(x, ticks, 4, height - 24)]
    for i, (first, second) in enumerate(zip(before, after, strict=True)):
        y = top + step * i + 4
        parts.append(_text("tick", 2, y + 4, f"fold {i + 1}"))
        if math.isfinite(first):
            parts.append(
                Markup('<line class="link" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(x(first), x(second), y, y)
            )
            parts.append(_mark("square", x(second), y, 1, f"fold {i + 1}, additive: {second:.4f}"))
            parts.append(_mark("circle", x(first), y, 0, f"fold {i + 1}: {first:.4f}"))
    return _svg(width, height, parts, title)


def roc_points(labels: np.ndarray, tables: np.ndarray, n: int = 101) -> list[tuple[float, float]]:
    """Return the ROC curve, macro mean of one class against the rest (of class 1 for two), mean over seeds."""
    from sklearn.metrics import roc_curve

    grid = np.linspace(0, 1, n)
    n_classes = tables.shape[2]
    columns = [1] if n_classes == 2 else range(n_classes)
    rates = []
    for table in tables:
        for k in columns:
            fall, rise, _ = roc_curve(labels == k, table[:, k])
            rates.append(np.interp(grid, fall, rise))
    mean = np.mean(rates, axis=0)
    mean[0] = 0.0
    return [(float(a), float(b)) for a, b in zip(grid, mean, strict=True)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values on a logarithmic axis that enclose `low` to `high`."""
    steps = [
        m * 10.0**p for p in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2) for m in (1, 2, 5)
    ]
    inside = [s for s in steps if low <= s <= high]
    ends = [max(s for s in steps if s <= low), *inside, min(s for s in steps if s >= high)]
    ticks = sorted(set(ends))
    if len(ticks) > 6:
        ticks = [t for t in ticks if t in (ticks[0], ticks[-1]) or f"{t:e}".startswith("1.")]
    return ticks if len(ticks) > 1 else [ticks[0] / 2, ticks[0] * 2]


def short(value: float, kind: str) -> str:
    """Return a number of parameters or of seconds in a few letters."""
    if kind == "seconds":
        if value < 60:
            return f"{value:g} s" if value in (1, 2, 5, 10, 20, 50) else f"{value:.3g} s"
        return f"{value / 60:.3g} min" if value < 3600 else f"{value / 3600:.3g} h"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _mark(shape: str, x: float, y: float, look: int, tip: str, *, size: float = 4) -> Markup:
    s, d = size, size * 1.3
    paths = {
        "square": f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z",
        "triangle": f"M{x:.1f} {y - s * 1.2:.1f}l{s * 1.2:.1f} {s * 2.1:.1f}h{-s * 2.4:.1f}z",
        "down": f"M{x:.1f} {y + s * 1.2:.1f}l{s * 1.2:.1f} {-s * 2.1:.1f}h{-s * 2.4:.1f}z",
        "diamond": f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z",
        "circle": f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        "cross": f"M{x - s:.1f} {y - s:.1f}l{2 * s} {2 * s}m0 {-2 * s}l{-2 * s} {2 * s}",
        "plus": f"M{x - s:.1f} {y:.1f}h{2 * s}m{-s} {-s}v{2 * s}",
        "bar": f"M{x:.1f} {y - s:.1f}v{2 * s}",
    }  # fmt: skip
    title = Markup("<title>{}</title>").format(tip) if tip else Markup("")
    drawn = "stroke" if shape in ("cross", "plus", "bar") else "fill"
    return Markup('<path class="mark {} c{}" d="{}">{}</path>').format(drawn, look % LOOKS, paths[shape], title)


def _digits(ticks: Sequence[float]) -> int:
    step = ticks[1] - ticks[0]
    return max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if f"{step:e}".startswith("2.5") else 0)


def _horizontal(y: Scale, ticks: Sequence[float], left: float, right: float) -> Markup:
    digits = _digits(ticks)
    lines = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, right, y(t), y(t))
        + _text("tick end", left - 7, y(t) + 4, f"{t:.{digits}f}")
        for t in ticks
    ]
    return Markup("").join(lines)


def _vertical(x: Scale, ticks: Sequence[float], top: float, bottom: float) -> Markup:
    digits = _digits(ticks)
    lines = []
    for i, tick in enumerate(ticks):
        side = "start" if i == 0 and x(tick) < 20 else "end" if i == len(ticks) - 1 else "mid"
        lines.append(
            Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x(tick), top, bottom)
            + _text(f"tick {side}", x(tick), bottom + 16, f"{tick:.{digits}f}")
        )
    return Markup("").join(lines)


def _text(style: str, x: float, y: float, words: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def _svg(width: float, height: float, parts: Sequence[Markup], title: str) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return Markup(head) + Markup("").join(parts) + Markup("</svg>")
