"""Charts of one model: its training, its calibration, its predictions beside the true values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from cotune.report.drawing import (
    DASHES,
    SHAPES,
    Scale,
    horizontal,
    mark,
    nice_ticks,
    short,
    spread,
    svg,
    text,
    whole_ticks,
)

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34


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
        parts += [Markup(line).format(name, left, left + wide, y(b["confidence"])) for name in ("halo", "wanted")]  # noqa: S704 - a template of the package; format() escapes
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
