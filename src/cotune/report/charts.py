"""All drawings of the reports, as inline SVG: no script, no fonts, colours from the page's style sheet.

No value hangs on colour alone: every line has its own dashes, every mark its own shape and a name beside it, and
every number also stands in a table of its report. Colours are those of Okabe & Ito, "Color Universal Design" (2008).
First what charts are made of (scales, ticks, axes, marks), then the charts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LOOKS = 8
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "bar")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "6 2 1 2 1 2")
WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}
_LETTERS = {"seconds": "s", "minutes": "min", "hours": "h"}
_NAME, _NOTE = 44, 56  # letters that fit on a line


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels.

    Parameters
    ----------
    low, high : float
        The values at the two ends.
    start, end : float
        Their places in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of `value`, within the ends."""
        span = self.high - self.low
        part = (value - self.low) / span if span else 0.5
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)


def nice_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return round values that enclose `low` to `high`."""
    if high - low < 1e-9:
        pad = max(abs(high) * 0.05, 0.01)
        low, high = low - pad, high + pad
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(start, end + 1)]


def whole_ticks(n: int, most: int = 6) -> list[int]:
    """Return some whole numbers of 1 to `n`, evenly spaced, with 1 and often `n` among them."""
    step = max(1, math.ceil((n - 1) / (most - 1))) if n > 1 else 1
    return list(range(1, n + 1, step))


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values on a logarithmic axis that enclose `low` to `high`."""
    steps = [
        m * 10.0**p for p in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2) for m in (1, 2, 5)
    ]
    inside = [s for s in steps if low <= s <= high]
    ends = [max(s for s in steps if s <= low), *inside, min(s for s in steps if s >= high)]
    ticks = sorted(set(ends))
    if len(ticks) > 6:
        # Powers of ten between the ends; one within a factor of two of an end would run into its label.
        first, *between, last = ticks
        between = [t for t in between if f"{t:e}".startswith("1.") and 2.1 * first < t < last / 2.1]
        ticks = [first, *between, last]
    return ticks if len(ticks) > 1 else [ticks[0] / 2, ticks[0] * 2]


def cost_ticks(low: float, high: float, kind: str) -> tuple[list[float], str]:
    """Return round places on a logarithmic axis of parameters or seconds, and the unit to write them in."""
    unit = kind
    if kind == "seconds" and high >= 120:
        unit = "hours" if high >= 7200 else "minutes"
    size = _UNITS.get(unit, 1)
    return [tick * size for tick in log_ticks(low / size, high / size)], unit


def short(value: float, unit: str) -> str:
    """Return a number of parameters, or seconds in a unit of time, in a few letters."""
    if unit in _UNITS:
        return f"{value / _UNITS[unit]:.3g} {_LETTERS[unit]}"
    for letter, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def digits(ticks: Sequence[float]) -> int:
    """Return how many decimals tell the ticks apart."""
    step = ticks[1] - ticks[0]
    return max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if f"{step:e}".startswith("2.5") else 0)


def horizontal(y: Scale, ticks: Sequence[float], left: float, right: float) -> Markup:
    """Draw the lines of a y axis."""
    places = digits(ticks)
    lines = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, right, y(t), y(t))
        + text("tick end", left - 7, y(t) + 4, f"{t:.{places}f}")
        for t in ticks
    ]
    return Markup("").join(lines)


def vertical(x: Scale, ticks: Sequence[float], top: float, bottom: float) -> Markup:
    """Draw the lines of an x axis."""
    places = digits(ticks)
    lines = []
    for i, tick in enumerate(ticks):
        side = "start" if i == 0 and x(tick) < 20 else "end" if i == len(ticks) - 1 else "mid"
        lines.append(
            Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x(tick), top, bottom)
            + text(f"tick {side}", x(tick), bottom + 16, f"{tick:.{places}f}")
        )
    return Markup("").join(lines)


def text(style: str, x: float, y: float, words: str) -> Markup:
    """Write words."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def svg(width: float, height: float, parts: Sequence[Markup], title: str, description: str = "") -> Markup:
    """Wrap parts into one drawing; title and description are for those who cannot see it."""
    label = f"{title}: {description}" if description else title
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(head) + Markup("").join(parts) + Markup("</svg>")


def mark(shape: str, x: float, y: float, look: int, tip: str, *, size: float = 4) -> Markup:
    """Draw one mark of a look, with a tip when it is pointed at."""
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


def line_chart(values: Sequence[float | None], *, title: str, x_name: str, decimals: int = 3) -> Markup:
    """Draw one value for each epoch.

    Parameters
    ----------
    values : sequence of float or None
        From epoch 1 on; None leaves a gap.
    title : str
        What the line shows.
    x_name : str
        What is counted along the x axis.
    decimals : int
        Of the labels.
    """
    known = [(i + 1, value) for i, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not known:
        return Markup("")
    ticks = nice_ticks(min(v for _, v in known), max(v for _, v in known))
    x = Scale(1, max(len(values), 2), _LEFT + 8, WIDTH - _RIGHT - 8)
    y = Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [horizontal(y, ticks, _LEFT, WIDTH - _RIGHT)]
    parts += [text("tick mid", x(n), HEIGHT - _BOTTOM + 16, str(n)) for n in whole_ticks(len(values))]
    points = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in known)
    parts.append(Markup('<polyline class="line" points="{}"/>').format(points))
    for n, value in known:
        tip = f"{x_name} {n}: {value:.{decimals}f}"
        parts.append(
            Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>').format(
                x(n), y(value), tip
            )
        )
    n, last = known[-1]
    above = y(last) > _TOP + 18
    place = y(last) - 9 if above else y(last) + 18
    parts.append(text("value", min(x(n), WIDTH - _RIGHT - 16), place, f"{last:.{decimals}f}"))
    parts.append(text("tick end", WIDTH - _RIGHT, HEIGHT - 3, x_name))
    first = known[0][1]
    return svg(
        WIDTH, HEIGHT, parts, title,
        f"{title} from {first:.{decimals}f} to {last:.{decimals}f} over {len(values)} {x_name}s",
    )  # fmt: skip


def calibration_chart(bins: Sequence[dict[str, float]]) -> Markup:
    """Draw how often predictions of each confidence are right, beside the diagonal of a perfect model.

    Parameters
    ----------
    bins : sequence of dict
        As :func:`cotune.metrics.calibration.calibration_bins` gives them.
    """
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    x = Scale(0, 1, _LEFT, WIDTH - _RIGHT)
    y = Scale(0, 1, HEIGHT - _BOTTOM, _TOP)
    most = max((b["n"] for b in bins), default=1)
    parts = [horizontal(y, ticks, _LEFT, WIDTH - _RIGHT)]
    parts += [text("tick mid", x(tick), HEIGHT - _BOTTOM + 16, f"{tick:g}") for tick in ticks]
    parts.append(Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x(0), y(0), x(1), y(1)))
    points = " ".join(f"{x(b['confidence']):.1f},{y(b['accuracy']):.1f}" for b in bins)
    parts.append(Markup('<polyline class="line thin" points="{}"/>').format(points))
    for b in bins:
        tip = f"confidence {b['confidence']:.2f}: {b['accuracy']:.0%} right of {b['n']:,}"
        # The area is in proportion to the posts, so that an outlier of three posts looks like one.
        radius = 2.5 + 6.5 * math.sqrt(b["n"] / most)
        parts.append(
            Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
                x(b["confidence"]), y(b["accuracy"]), radius, tip
            )
        )
    parts.append(text("tick end", WIDTH - _RIGHT, HEIGHT - 3, "confidence"))
    return svg(
        WIDTH, HEIGHT, parts, "Calibration",
        "share of right predictions over the model's confidence; the table gives all values",
    )  # fmt: skip


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
    parts += [dot.format(x(true), y(said), f"true {true:.4g}, predicted {said:.4g}") for true, said in pairs]
    parts.append(text("tick end", WIDTH - _RIGHT, HEIGHT - 3, "true value"))
    return svg(
        WIDTH, HEIGHT, parts, "Predicted and true values", f"predicted over true values of {len(pairs)} posts"
    )  # fmt: skip


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
    note : str
        What stands below the name, in small type.
    """

    name: str
    value: float
    low: float
    high: float
    dots: Sequence[float] = ()
    other: float | None = None
    strong: bool = False
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
    """One mark of a scatter chart."""

    name: str
    x: float
    y: float
    look: int


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
            Markup(
                '<text class="name{}" x="{}" y="{}">{}</text><text class="value end" x="{}" y="{}">{}</text>'
            ).format(" strong" if bar.strong else "", left, y - 11 - lower, name, right, y - 11 - lower, value)
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
                    " strong" if bar.strong else "", x(bar.low), x(bar.high), y, y
                )
            )
        if value:
            tip = f"{bar.name}{f' ({bar.note})' if bar.note else ''}: {value} [{bar.low:.4f}, {bar.high:.4f}]"
            look = 0 if bar.strong else 7
            parts.append(mark("circle" if bar.strong else "square", x(bar.value), y, look, tip, size=5))
        if bar.other is not None:
            parts.append(
                Markup(
                    '<path class="paper" d="M{0:.1f} {1}l5 5l-5 5l-5 -5z"><title>paper: {2:.4f}</title></path>'
                ).format(x(bar.other), y - 5, bar.other)
            )
    return svg(width, height, parts, title)


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
    parts = [horizontal(y, y_ticks, left, right)]
    last = -99.0
    for value, word in x_ticks:
        place = x(at(value))
        if place - last < 24:
            continue
        last = place
        parts.append(text("tick mid", place, bottom + 16, word))
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
                mark(SHAPES[line.look % LOOKS], x(at(px)), y(py), line.look, f"{line.name}, {px:g}: {py:.4f}")
                for px, py in line.points
            ]
    parts += [text("tick", 4, 11, y_name), text("tick end", right, height - 4, x_name)]
    return svg(width, height, parts, title)


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
    width, height, left, right, top, bottom = 360, 260, 46, 348, 20, 224
    y_ticks = nice_ticks(min(s.y for s in spots), max(s.y for s in spots))
    x_ticks, unit = cost_ticks(min(s.x for s in spots), max(s.x for s in spots), kind)
    x = Scale(math.log(x_ticks[0]), math.log(x_ticks[-1]), left + 8, right - 8)
    y = Scale(y_ticks[0], y_ticks[-1], bottom - 6, top + 6)
    parts = [horizontal(y, y_ticks, left, right)]
    parts += [
        text("tick end" if tick == x_ticks[-1] else "tick mid", x(math.log(tick)), bottom + 16, short(tick, unit))
        for tick in x_ticks
    ]
    front = [
        s for s in sorted(spots, key=lambda s: (s.x, -s.y)) if all(o.y < s.y for o in spots if o.x <= s.x and o != s)
    ]
    if join and len(front) > 1:
        path = " ".join(f"{x(math.log(s.x)):.1f},{y(s.y):.1f}" for s in front)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(path))
    for spot in sorted(spots, key=lambda s: s.look == 0):
        tip = f"{spot.name}: {spot.y:.4f}, {short(spot.x, unit)}"
        shape = SHAPES[spot.look % LOOKS]
        parts.append(mark(shape, x(math.log(spot.x)), y(spot.y), spot.look, tip, size=5.5))
    parts += [text("tick", 4, 11, y_name), text("tick end", right, height - 4, x_name)]
    return svg(width, height, parts, title)


def dumbbells(before: Sequence[float], after: Sequence[float], *, title: str) -> Markup:
    """Draw a pair of values for each fold, joined by a line."""
    values = [v for v in (*before, *after) if math.isfinite(v)]
    if not values:
        return Markup("")
    ticks = nice_ticks(min(values), max(values))
    width, top, step = 360, 14, 19
    height = top + step * len(before) + 24
    x = Scale(ticks[0], ticks[-1], 52, 348)
    parts = [vertical(x, ticks, 4, height - 24)]
    for i, (first, second) in enumerate(zip(before, after, strict=True)):
        y = top + step * i + 4
        parts.append(text("tick", 2, y + 4, f"fold {i + 1}"))
        if math.isfinite(first) and math.isfinite(second):
            parts.append(
                Markup('<line class="link" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(x(first), x(second), y, y)
            )
            parts.append(mark("square", x(second), y, 1, f"fold {i + 1}, additive: {second:.4f}"))
            parts.append(mark("circle", x(first), y, 0, f"fold {i + 1}: {first:.4f}"))
    return svg(width, height, parts, title)
