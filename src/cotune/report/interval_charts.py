"""Figures and paired differences with their intervals, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cotune.report.drawing import (
    Scale,
    mark,
    nice_ticks,
    svg,
    text,
    vertical,
)
from cotune.report.numbers import signed

WIDTH = 360
_NAME, _NOTE = 44, 56  # letters that fit on a line


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
