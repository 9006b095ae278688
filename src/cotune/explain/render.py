"""An explanation as HTML that needs nothing else. Whatever a post says is text and never markup."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from cotune.explain.explanation import Explanation
from cotune.explain.overlay import data_url, overlay, shrink, top_patches
from cotune.explain.pixels import Pixels
from cotune.explain.words import Words
from cotune.fusion.contributions import REMOVED

_CLASSES, _WORDS = 12, 8
#: Words beyond this many are shown but not marked one by one.
_MARKED_WORDS = 400


def fragment(found: Explanation, *, style: bool = False) -> Markup:
    """Return an explanation as a piece of HTML.

    Parameters
    ----------
    found : Explanation
        What to show.
    style : bool
        Whether to bring the style sheet along, as a notebook needs it.
    """
    page = environment().get_template("post.html")
    return Markup(page.render(
        x=found,
        style=Markup(css()) if style else None,
        classes=_classes(found),
        more_classes=max(0, len(found.proba) - _CLASSES),
        removed=_removed(found.removed),
        words=None if found.words is None else _words(found.words),
        pixels=None if found.pixels is None else _pixels(found, found.pixels),
        picture=None if found.picture is None else data_url(shrink(found.picture)),
    ))  # fmt: skip


@cache
def environment() -> Environment:
    """Return the templates of explanations; all values are escaped."""
    pages = {"post.html": (files("cotune.explain") / "templates" / "post.html").read_text(encoding="utf-8")}
    page = Environment(
        loader=DictLoader(pages), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters["signed"] = signed
    page.filters["percent"] = percent
    return page


@cache
def css() -> str:
    """Return the style sheet of explanations."""
    return (files("cotune.explain") / "templates" / "explain.css").read_text(encoding="utf-8")


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign, a real minus, or a dash for none."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def percent(value: float | None, digits: int = 0) -> str:
    """Return a part as a percentage, or a dash for none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}%}"


def _removed(state: dict[str, str]) -> list[tuple[str, str]]:
    """Return what stands in for which modalities, those alike in one."""
    names: dict[str, list[str]] = {}
    for name, key in state.items():
        if key != "unused":
            names.setdefault(key, []).append(name)
    return [(" or ".join(alike), REMOVED[key]) for key, alike in names.items()]


def _classes(found: Explanation) -> list[dict[str, Any]]:
    names = sorted(found.proba, key=lambda name: -found.proba[name])[:_CLASSES]
    most = max((abs(part[name]) for name in names for part in (found.text_part, found.image_part)), default=0) or 1
    return [
        {
            "name": name,
            "proba": found.proba[name],
            "base": found.base[name],
            "sum": found.base[name] + found.text_part[name] + found.image_part[name],
            "predicted": name == found.label,
            "parts": [
                {"kind": kind, "value": part[name], "width": 50 * abs(part[name]) / most}
                for kind, part in (("text", found.text_part), ("image", found.image_part))
            ],
        }
        for name in names
    ]


def _words(words: Words) -> dict[str, Any]:
    most = max((abs(word.gradient) for word in words.words), default=0) or 1
    pieces: list[dict[str, Any]] = []
    at = 0
    for word in words.words[:_MARKED_WORDS]:
        pieces.append({"plain": words.text[at : word.start]})
        pieces.append({"word": word, "strength": abs(word.gradient) / most, "sign": _sign(word.gradient, most)})
        at = word.end
    pieces.append({"plain": words.text[at:]})
    ranked = sorted(words.words, key=lambda word: -abs(word.gradient))
    rows = [{"word": w, "width": 50 * abs(w.gradient) / most} for w in ranked]
    return {
        "pieces": pieces,
        "top": rows[:_WORDS],
        "rest": rows[_WORDS:_MARKED_WORDS],
        "cut": words.cut,
        "error": words.error,
        "change": words.value - words.baseline,
        "agreement": words.agreement,
        "second": any(np.isfinite(w.left_out) for w in words.words),
    }


def _sign(value: float, most: float) -> str:
    if abs(value) < 0.05 * most:
        return "none"
    return "for" if value > 0 else "against"


def _pixels(found: Explanation, pixels: Pixels) -> dict[str, Any]:
    assert found.picture is not None
    assert found.frame is not None
    return {
        "overlay": data_url(overlay(found.picture, pixels, found.frame)),
        "method": pixels.method,
        "patches": top_patches(pixels, found.frame),
        "grid": pixels.blurred.tolist() if np.isfinite(pixels.blurred).all() else pixels.patches.tolist(),
        "change": pixels.value - pixels.baseline,
        "agreement": pixels.agreement,
    }
