"""All drawings of the reports, as inline SVG: no script, no fonts, colours from the page's style sheet.

No value hangs on colour alone: every line has its own dashes, every mark its own shape and a name beside it, and
every number also stands in a table of its report. Colours are those of Okabe & Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    spread,
    svg,
    text,
    vertical,
    whole_ticks,
)
from cotune.report.numbers import signed

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
_NAME, _NOTE = 44, 56  # letters that fit on a line


def training_chart(
    lines: Mapping[str, Sequence[float | None]], *, title: str, stages: Sequence[tuple[str, int]], decimals: int = 3
) -> Markup:
    """Draw values by epoch over all stages of a training, with the borders of the stages.

    Parameters
    ----------
    lines : mapping
        Name of a line to its values from the first epoch on; None leaves a gap.
    title : str
        What the lines show.
    stages : sequence of (str, int)
        Name of each stage and how many epochs it has.
    decimals : int
        Of the labels.
    """
    known = {
        name: [(i + 1, value) for i, value in enumerate(values) if value is not None and math.isfinite(value)]
        for name, values in lines.items()
    }
    known = {name: points for name, points in known.items() if points}
    if not known:
        return Markup("")
    every = [value for points in known.values() for _, value in points]
    ticks = nice_ticks(min(every), max(every))
    epochs, top, right = max(len(values) for values in lines.values()), 26, WIDTH - (108 if len(known) > 1 else 58)
    x = Scale(1, max(epochs, 2), _LEFT + 8, right - 8)
    y = Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, top)
    parts = [horizontal(y, ticks, _LEFT, right)]
    parts += [text("tick mid", x(n), HEIGHT - _BOTTOM + 16, str(n)) for n in whole_ticks(epochs)]
    parts += _stages(stages, x, top, right)
    ends = {name: y(points[-1][1]) for name, points in known.items()}
    places = dict(zip(ends, spread(list(ends.values()), 14), strict=True))
    findings = []
    for look, (name, points) in enumerate(known.items()):
        for run in _without_gaps(points):
            parts.append(
                Markup('<polyline class="curve c{}" stroke-dasharray="{}" points="{}"/>').format(
                    look, DASHES[look], " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in run)
                )
            )
        parts += [
            mark(SHAPES[look], x(n), y(v), look, f"{name}, epoch {n}: {v:.{decimals}f}", size=3.5) for n, v in points
        ]
        n, last = points[-1]
        label = f"{name} {last:.{decimals}f}" if len(known) > 1 else f"{last:.{decimals}f}"
        parts.append(text("name start", min(x(n), right - 8) + 8, places[name] + 4, label))
        low, high = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
        findings.append(
            f"{name} from {points[0][1]:.{decimals}f} to {last:.{decimals}f}, lowest {low[1]:.{decimals}f} in epoch "
            f"{low[0]}, highest {high[1]:.{decimals}f} in epoch {high[0]}"
        )
    parts.append(text("tick end", right, HEIGHT - 3, "epoch"))
    over = " and ".join(f"{count} of {name}" for name, count in stages)
    return svg(WIDTH, HEIGHT, parts, title, f"{'; '.join(findings)}; epochs: {over}")


def _stages(stages: Sequence[tuple[str, int]], x: Scale, top: float, right: float) -> list[Markup]:
    """Draw the borders between stages, each with its name."""
    parts, done, left = [], 0, float(_LEFT)
    for name, count in stages:
        done += count
        border = x(done + 0.5) if done + 0.5 < x.high else right
        if border - left > 7 * len(name):
            parts.append(text("tick mid", (left + border) / 2, top - 12, name))
        if border < right:
            line = Markup('<line class="border" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
            parts.append(line.format(border, top - 20, HEIGHT - _BOTTOM))
        left = border
    return parts


def _without_gaps(points: Sequence[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    runs: list[list[tuple[int, float]]] = []
    for point in points:
        if runs and runs[-1][-1][0] + 1 == point[0]:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


#: Bins with fewer posts are drawn hollow: their share of right ones is mostly chance.
_FEW = 10


def calibration_chart(bins: Sequence[Mapping[str, float]], *, low: float | None = None) -> Markup:
    """Draw how often predictions of each confidence are right, and below how many there are.

    Parameters
    ----------
    bins : sequence of mapping
        As :func:`cotune.metrics.calibration.calibration_bins` gives them.
    low : float, optional
        Where the axis begins; by default at the lowest bin. Charts that are compared have to share it.
    """
    height, floor, base = 276, 186, 262
    total = sum(b["n"] for b in bins)
    x = Scale(min((b["low"] for b in bins), default=0.0) if low is None else low, 1, _LEFT, WIDTH - _RIGHT)
    y = Scale(0, 1, floor, _TOP)
    tall = Scale(0, max((b["n"] for b in bins), default=1), 0, 30)
    parts = [horizontal(y, [0.0, 0.25, 0.5, 0.75, 1.0], _LEFT, WIDTH - _RIGHT)]
    ticks = [tick for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick >= x.low - 1e-9]
    parts += [text("tick end" if t == 1 else "tick mid", x(t), floor + 15, f"{t:g}") for t in ticks]
    bar = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    for b in bins:
        left, wide = x(b["low"]) + 1, x(b["high"]) - x(b["low"]) - 2
        tip = (
            f"confidence {b['low']:.2f} to {b['high']:.2f}, mean {b['confidence']:.2f}: {b['accuracy']:.0%} right of "
            f"{b['n']:,}"
        )
        top = y(b["accuracy"])
        parts.append(
            bar.format("column" if b["n"] >= _FEW else "column few", left, top, wide, max(floor - top, 1), tip)
        )
        line = '<line class="{0}" x1="{1:.1f}" x2="{2:.1f}" y1="{3:.1f}" y2="{3:.1f}"/>'
        parts += [Markup(line).format(name, left, left + wide, y(b["confidence"])) for name in ("halo", "wanted")]
        size = max(tall(b["n"]), 1)
        parts.append(bar.format("column count", left, base - size, wide, size, tip))
        parts.append(text("tick tiny mid", left + wide / 2, base + 10, short(b["n"], "")))
    parts.append(text("tick", 4, base + 10, "posts"))
    parts.append(text("tick end", WIDTH - _RIGHT, floor + 29, "confidence"))
    return svg(WIDTH, height, parts, "Calibration", _calibration_finding(bins, total))


def _calibration_finding(bins: Sequence[Mapping[str, float]], total: float) -> str:
    if not total:
        return "no posts"
    sure, right = (sum(b["n"] * b[key] for b in bins) / total for key in ("confidence", "accuracy"))
    gap = sure - right
    what = "overconfident" if gap > 0.02 else "underconfident" if gap < -0.02 else "confidence and accuracy agree"
    return f"{what}: mean confidence {sure:.0%}, right {right:.0%}, over {total:,} posts; the table gives all values"


def pairs_chart(pairs: Sequence[Sequence[float]]) -> Markup:
    """Draw predicted over true values, beside the diagonal of a perfect model.

    Parameters
    ----------
    pairs : sequence of (float, float)
        True and predicted value of some posts.
    """
    every = [value for pair in pairs for value in pair]
    ticks = nice_ticks(min(every), max(every))
    low, high = min(*ticks, *every), max(*ticks, *every)
    x = Scale(low, high, _LEFT, WIDTH - _RIGHT)
    y = Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [horizontal(y, ticks, _LEFT, WIDTH - _RIGHT)]
    parts += [text("tick mid", x(tick), HEIGHT - _BOTTOM + 16, f"{tick:g}") for tick in ticks]
    ideal = Markup('<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    parts.append(ideal.format(x(low), y(low), x(high), y(high)))
    dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2.5"><title>{}</title></circle>')
    parts += [
        dot.format(x(true), y(predicted), f"true {true:.4g}, predicted {predicted:.4g}") for true, predicted in pairs
    ]
    parts.append(text("tick end", WIDTH - _RIGHT, HEIGHT - 3, "true value"))
    return svg(
        WIDTH, HEIGHT, parts, "Predicted and true values",
        f"{len(pairs):,} posts, half of them less than {_median([abs(a - b) for a, b in pairs]):.3g} off",
    )  # fmt: skip


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan


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
    marked : bool
        Whether it is the one that others are compared with.
    note : str
        What stands below the name, in small type.
    """

    name: str
    value: float
    low: float
    high: float
    dots: Sequence[float] = ()
    other: float | None = None
    marked: bool = False
    note: str = ""


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


def interval_chart(bars: Sequence[Bar], *, title: str) -> Markup:
    """Draw figures with intervals, one below the other, single folds as small dots."""
    if not bars:
        return Markup("")
    every = [v for b in bars for v in (b.value, b.low, b.high, *b.dots, b.other) if v is not None and math.isfinite(v)]
    if not every:
        return Markup("")
    ticks = nice_ticks(min(every), max(every))
    lower = 15 if any(b.note for b in bars) else 0
    left, right, top, step, width = 12, 348, 18 + lower, 42 + lower, 360
    height = top + step * len(bars) + 26
    x = Scale(ticks[0], ticks[-1], left, right)
    parts = [vertical(x, ticks, 6, height - 24)]
    for i, bar in enumerate(bars):
        y = top + step * i + 20
        name, note = _cut(bar.name, _NAME), _cut(bar.note, _NOTE)
        value = "" if not math.isfinite(bar.value) else f"{bar.value:.4f}"
        parts.append(
            Markup('<text class="name" x="{}" y="{}">{}</text><text class="value end" x="{}" y="{}">{}</text>').format(
                left, y - 11 - lower, name, right, y - 11 - lower, value
            )
        )
        if note:
            parts.append(text("tick", left, y - 10, note))
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
                    " marked" if bar.marked else "", x(bar.low), x(bar.high), y, y
                )
            )
        if value:
            tip = f"{bar.name}{f' ({bar.note})' if bar.note else ''}: {value} [{bar.low:.4f}, {bar.high:.4f}]"
            look = 0 if bar.marked else 7
            parts.append(mark("circle" if bar.marked else "square", x(bar.value), y, look, tip, size=5))
        if bar.other is not None:
            parts.append(
                Markup(
                    '<path class="paper" d="M{0:.1f} {1}l5 5l-5 5l-5 -5z"><title>paper: {2:.4f}</title></path>'
                ).format(x(bar.other), y - 5, bar.other)
            )
    known = sorted((bar for bar in bars if math.isfinite(bar.value)), key=lambda bar: -bar.value)
    ends = known[:1] + known[1:][-1:]
    found = " to ".join(f"{bar.name} {bar.value:.4f} [{bar.low:.4f}, {bar.high:.4f}]" for bar in ends)
    return svg(width, height, parts, title, f"from {found}" if len(ends) > 1 else found)


@dataclass(frozen=True)
class Gap:
    """One row of :func:`forest_chart`: by how much the reference is above another row, with its interval."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""


def forest_chart(gaps: Sequence[Gap], *, title: str, sides: tuple[str, str]) -> Markup:
    """Draw paired differences with intervals, one below the other, about a line at zero.

    A difference whose interval reaches zero is drawn hollow.

    Parameters
    ----------
    gaps : sequence of Gap
        The differences.
    title : str
        What they are.
    sides : (str, str)
        What it means to lie left and right of zero.
    """
    gaps = [gap for gap in gaps if math.isfinite(gap.value)]
    if not gaps:
        return Markup("")
    every = [v for gap in gaps for v in (gap.value, gap.low, gap.high) if math.isfinite(v)]
    places = 3 if max(map(abs, every)) >= 0.02 else 4
    ticks = nice_ticks(min(*every, 0.0), max(*every, 0.0))
    lower = 15 if any(len(gap.name) > _NAME - 11 for gap in gaps) else 0  # long names have a line to themselves
    left, right, top, step = 12, WIDTH - 12, 30 + lower, 40 + lower
    foot = top + step * len(gaps) + 8
    x = Scale(ticks[0], ticks[-1], left + 4, right - 4)
    parts = [vertical(x, ticks, 22, foot)]
    parts.append(Markup('<line class="zero" x1="{0:.1f}" x2="{0:.1f}" y1="22" y2="{1}"/>').format(x(0), foot))
    parts += [text("tick start", left, 12, f"← {sides[0]}"), text("tick end", right, 12, f"{sides[1]} →")]
    findings: list[str] = []
    for i, gap in enumerate(gaps):
        y = top + step * i + 28
        clear = gap.low > 0 or gap.high < 0
        note = f", {gap.note}" if gap.note else ""
        parts.append(text("name halo", left, y - 12 - lower, _cut(gap.name, _NOTE if lower else _NAME)))
        parts.append(
            text("value halo end", right, y - 12, signed(gap.value, places) + (f", {gap.note}" if gap.note else ""))
        )
        if math.isfinite(gap.low):
            parts.append(
                Markup('<line class="whisk" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
                    x(gap.low), x(gap.high), y, y
                )
            )
        low, high = signed(gap.low, places), signed(gap.high, places)
        findings.append(f"{gap.name} {signed(gap.value, places)} [{low}, {high}]")
        parts.append(
            Markup('<rect class="{}" x="{:.1f}" y="{}" width="10" height="10"><title>{}</title></rect>').format(
                "gap" if clear else "gap level", x(gap.value) - 5, y - 5, f"{findings[-1]}{note}"
            )
        )
    return svg(WIDTH, foot + 26, parts, title, "; ".join(findings))


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


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
