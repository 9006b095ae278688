"""What charts are made of: scales, ticks, axes, words and marks, as pieces of inline SVG.

Every look has a shape and dashes of its own beside its colour; colours are those of Okabe & Ito, "Color Universal
Design" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LOOKS = 8
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "bar")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "6 2 1 2 1 2")
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}
_LETTERS = {"seconds": "s", "minutes": "min", "hours": "h"}


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


def spread(places: Sequence[float], least: float) -> list[float]:
    """Return places along an axis, in the order given, moved as little as need be to lie `least` apart."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = list(places)
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1:
            one, other = (_laid_out(group, places, least) for group in groups[-2:])
            if other[0] - one[-1] >= least - 1e-9:
                break
            groups[-2:] = [groups[-2] + groups[-1]]
    for group in groups:
        for i, place in zip(group, _laid_out(group, places, least), strict=True):
            found[i] = place
    return found


def _laid_out(group: Sequence[int], places: Sequence[float], least: float) -> list[float]:
    middle = sum(places[i] for i in group) / len(group)
    return [middle + (n - (len(group) - 1) / 2) * least for n in range(len(group))]


def text(style: str, x: float, y: float, words: str) -> Markup:
    """Write words."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def beside(marks: Sequence[tuple[float, float, str]], frame: tuple[float, float, float, float]) -> list[Markup]:
    """Write labels beside their marks, where they hit neither another mark nor another label, with a line if far off.

    Parameters
    ----------
    marks : sequence of (float, float, str)
        Places in pixels, and labels; one that fits nowhere, or is "", is left out.
    frame : (float, float, float, float)
        Left, top, right and bottom, which labels must not leave.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in marks]
    parts = []
    for x, y, label in sorted(marks, key=lambda m: (m[0], m[1])):
        width = 5.7 * len(label)
        for dx, dy in _AROUND if label else ():
            left = x + dx if dx > 0 else x + dx - width if dx < 0 else x - width / 2
            box = (left, y + dy - 6, left + width, y + dy + 5)
            inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in taken):
                taken.append(box)
                if abs(dy) > 14 or abs(dx) > 16:
                    end = left if dx > 0 else left + width if dx < 0 else x
                    line = Markup('<line class="leader" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
                    parts.append(line.format(x, y, end, y + dy))
                side = "start" if dx > 0 else "end" if dx < 0 else "mid"
                parts.append(text(f"label {side}", x + dx, y + dy + 4, label))
                break
    return parts


#: Where a label may stand about its mark: near first.
_AROUND = [(10, 0), (-10, 0), (0, -13), (0, 14), (9, -11), (9, 12), (-9, -11), (-9, 12),
           (24, -18), (24, 20), (-24, -18), (-24, 20), (0, -30), (0, 32), (34, -34), (34, 36), (-34, -34),
           (-34, 36)]  # fmt: skip


def svg(width: float, height: float, parts: Sequence[Markup], title: str, description: str = "") -> Markup:
    """Wrap parts into one drawing; title and description are for those who cannot see it."""
    label = f"{title}: {description}" if description else title
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(head) + Markup("").join(parts) + Markup("</svg>")  # noqa: S704 - made of numbers and escaped texts


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
