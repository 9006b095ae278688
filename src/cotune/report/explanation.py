"""An explanation of one post as HTML that needs nothing else, from the plain values that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from cotune.encoders.crop_geometry import CropGeometry
from cotune.report.overlay import data_url, overlay, shrink, top_patches
from cotune.report.pages import render, style_sheet

#: The style sheet of an explanation.
STYLE = "explanation.css"
_CLASSES, _WORDS = 12, 8
#: Words beyond this many are shown but not marked one by one.
_MARKED_WORDS = 400


def fragment(found: Mapping[str, Any], image: Image.Image | None, *, style: bool = False) -> Markup:
    """Return an explanation as a piece of HTML.

    Parameters
    ----------
    found : mapping
        What to show, as :meth:`cotune.explain.explanation.Explanation.to_dict` gives it.
    image : PIL image or None
        The post's image.
    style : bool
        Whether to bring the style sheet along, as a notebook needs it.
    """
    return Markup(render(
        "explanation.html",
        x=found,
        interaction=found["log_odds"][found["label"]]["interaction"],
        style=style_sheet(STYLE) if style else None,
        classes=_classes(found),
        more_classes=max(0, len(found["probability"]) - _CLASSES),
        removed=_removed(found["removed"]),
        words=None if found["words"] is None else _words(found["words"], found["text"]),
        pixels=None if found["pixels"] is None else _pixels(found, image),
        picture=None if image is None else data_url(shrink(image)),
    ))  # fmt: skip


def _removed(state: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return what stands in for which modalities, those alike in one."""
    names: dict[str, list[str]] = {}
    for name, removed in state.items():
        if removed["by"] != "unused":
            names.setdefault(removed["meaning"], []).append(name)
    return [(" or ".join(alike), meaning) for meaning, alike in names.items()]


def _classes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    proba, parts = found["probability"], found["log_odds"]
    names = sorted(proba, key=lambda name: -proba[name])[:_CLASSES]
    most = max((abs(parts[name][kind]) for name in names for kind in ("text", "image")), default=0) or 1
    return [
        {
            "name": name,
            "proba": proba[name],
            "base": parts[name]["base"],
            "sum": parts[name]["base"] + parts[name]["text"] + parts[name]["image"],
            "predicted": name == found["label"],
            "parts": [
                {"kind": kind, "value": parts[name][kind], "width": 50 * abs(parts[name][kind]) / most}
                for kind in ("text", "image")
            ],
        }
        for name in names
    ]


def _words(words: Mapping[str, Any], text: str) -> dict[str, Any]:
    read = text[: len(text) - words["characters_not_read"]]
    most = max((abs(word["gradient"]) for word in words["words"]), default=0) or 1
    pieces: list[dict[str, Any]] = []
    at = 0
    for word in words["words"][:_MARKED_WORDS]:
        pieces.append({"plain": read[at : word["start"]]})
        pieces.append({"word": word, "strength": abs(word["gradient"]) / most, "sign": _sign(word["gradient"], most)})
        at = word["end"]
    pieces.append({"plain": read[at:]})
    ranked = sorted(words["words"], key=lambda word: -abs(word["gradient"]))
    rows = [{"word": w, "width": 50 * abs(w["gradient"]) / most} for w in ranked]
    return {
        "pieces": pieces,
        "top": rows[:_WORDS],
        "rest": rows[_WORDS:_MARKED_WORDS],
        "cut": words["characters_not_read"],
        "error": words["completeness_error"],
        "change": words["value"] - words["baseline"],
        "agreement": words["agreement"],
    }


def _sign(value: float, most: float) -> str:
    if abs(value) < 0.05 * most:
        return "none"
    return "for" if value > 0 else "against"


def _pixels(found: Mapping[str, Any], image: Image.Image | None) -> dict[str, Any]:
    assert image is not None
    pixels, geometry = found["pixels"], CropGeometry(**found["frame"])
    patches = _array(pixels["patches"])
    return {
        "overlay": data_url(overlay(image, _array(pixels["map"]), patches, geometry)),
        "method": pixels["method"],
        "patches": top_patches(patches, geometry),
        "grid": pixels["patches"],
        "change": pixels["value"] - pixels["baseline"],
        "agreement": pixels["agreement"],
    }


def _array(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.asarray(rows, dtype=np.float64)  # None becomes NaN
