"""Small drawings as inline SVG: no script, no fonts, colours from the page's own variables.

Every drawing has a title and a description for those who cannot see it, and every value that it shows also
stands in a table of the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34


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


def line_chart(values: Sequence[float | None], *, title: str, x_name: str, digits: int = 3) -> Markup:
    """Draw one value for each epoch.

    Parameters
    ----------
    values : sequence of float or None
        From epoch 1 on; None leaves a gap.
    title : str
        What the line shows.
    x_name : str
        What is counted along the x axis.
    digits : int
        Decimals of the labels.
    """
    known = [(i + 1, value) for i, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not known:
        return Markup("")
    ticks = nice_ticks(min(v for _, v in known), max(v for _, v in known))
    x = Scale(1, max(len(values), 2), _LEFT + 8, WIDTH - _RIGHT - 8)
    y = Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(ticks, y)]
    parts += [_x_label(x(n), str(n)) for n in whole_ticks(len(values))]
    points = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in known)
    parts.append(Markup('<polyline class="line" points="{}"/>').format(points))
    for n, value in known:
        tip = f"{x_name} {n}: {value:.{digits}f}"
        parts.append(
            Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>').format(
                x(n), y(value), tip
            )
        )
    n, last = known[-1]
    above = y(last) > _TOP + 18
    place = y(last) - 9 if above else y(last) + 18
    parts.append(Markup('<text class="value" x="{:.1f}" y="{:.1f}">{:.{d}f}</text>').format(
        min(x(n), WIDTH - _RIGHT - 16), place, last, d=digits
    ))  # fmt: skip
    parts.append(_axis_name(x_name))
    first = known[0][1]
    return _svg(parts, title, f"{title} from {first:.{digits}f} to {last:.{digits}f} over {len(values)} {x_name}s")


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
    parts = [_grid(ticks, y), *(_x_label(x(tick), f"{tick:g}") for tick in ticks)]
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
    parts.append(_axis_name("confidence"))
    return _svg(
        parts, "Calibration", "share of right predictions over the model's confidence; the table gives all values"
    )


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


def _grid(ticks: Sequence[float], y: Scale) -> Markup:
    step = ticks[1] - ticks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if f"{step:e}".startswith("2.5") else 0)
    lines = [
        Markup(
            '<line class="grid" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>'
            '<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{:.{d}f}</text>'
        ).format(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), _LEFT - 7, y(tick) + 4, tick, d=digits)
        for tick in ticks
    ]
    return Markup("").join(lines)


def _x_label(at: float, text: str) -> Markup:
    return Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
        at, HEIGHT - _BOTTOM + 16, text
    )


def _axis_name(text: str) -> Markup:
    return Markup('<text class="tick" text-anchor="end" x="{}" y="{}">{}</text>').format(
        WIDTH - _RIGHT, HEIGHT - 3, text
    )


def _svg(parts: Sequence[Markup], title: str, description: str) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(description)}">'
    return Markup(head) + Markup("").join(parts) + Markup("</svg>")
