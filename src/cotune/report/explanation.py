"""An explanation of one post as HTML that needs nothing else, from the plain values that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from cotune.data.tables.cells import FIELD_LABEL
from cotune.encoders.crop_geometry import CropGeometry
from cotune.report.notebook import themed
from cotune.report.overlay import overlay, shrink, top_patches
from cotune.report.pages import render, style_sheet
from cotune.report.thumbnails import data_url
from cotune.tasks.field_scores import CONTRADICTION

#: The style sheet of an explanation.
STYLE = "explanation.css"
_CLASSES, _WORDS = 12, 8
#: Words beyond this many are shown but not marked one by one.
_MARKED_WORDS = 400


#: How the bars of the fields are filled, in their order.
_FILLS = ("text", "image", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def fragment(found: Mapping[str, Any], images: Mapping[str, Image.Image], *, style: bool = False) -> Markup:
    """Return an explanation as a piece of HTML.

    Parameters
    ----------
    found : mapping
        What to show, as :meth:`cotune.explain.explanation.Explanation.to_dict` gives it.
    images : mapping
        The post's images by field.
    style : bool
        Whether to bring the style sheet along, as a notebook needs it.
    """
    names = list(found["fields"])
    probabilities = found.get("probability")
    return Markup(render(  # noqa: S704 - a rendered template is escaped already
        "explanation.html",
        x=found,
        proba=probabilities,
        sure=None if probabilities is None else probabilities[found["explained"]],
        scale="log-odds" if probabilities is not None else "value",
        fields=[
            {"name": name, "title": name[:1].upper() + name[1:], "fill": fill, "share": found[f"{name}_share"]}
            for name, fill in zip(names, _FILLS, strict=False)
        ],
        several=" and ".join(names),
        of_fields=_of_fields(found),
        interaction=_contributions(found)[found["explained"]].get("interaction"),
        style=Markup(themed(style_sheet(STYLE), ".cx")) if style else None,  # noqa: S704 - a style sheet of the package
        classes=_classes(found),
        more_classes=max(0, len(_contributions(found)) - _CLASSES),
        removed=_removed(found["removed"]),
        texts=[_text_part(found, name) for name, kind in found["fields"].items() if kind == "text"],
        images=[_image_part(found, name, images.get(name)) for name, of in found["fields"].items() if of == "image"],
    ))  # fmt: skip


def _of_fields(found: Mapping[str, Any]) -> str:
    """Return what is predicted of single fields, in words; nothing where the run has learned no labels of fields."""
    names = [name for name in found["fields"] if f"{FIELD_LABEL}{name}" in found]
    each = [
        f"{name} {label} ({found[f'p:{name}_{label}']:.0%})"
        for name in names for label in [found[f"{FIELD_LABEL}{name}"]]
    ]  # fmt: skip
    chance = f"; probability of a contradiction {found[CONTRADICTION]:.0%}" if CONTRADICTION in found else ""
    return f"Predicted labels of fields: {', '.join(each)}{chance}." if names else ""


def _contributions(found: Mapping[str, Any]) -> Mapping[str, Any]:
    values: Mapping[str, Any] = found["log_odds"] if "log_odds" in found else found["value"]
    return values


def _of_field(found: Mapping[str, Any], key: str, name: str) -> Any:
    """Return what belongs to one field; it is by itself where a post has one field of the kind."""
    kind = found["fields"][name]
    alone = sum(other == kind for other in found["fields"].values()) == 1
    value = found[key]
    return value if alone or value is None else value.get(name)


def _text_part(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    text, words = _of_field(found, "text", name), _of_field(found, "words", name)
    named = "" if name == "text" else f" of {name}"
    return {
        "words_title": f"The words{named}",
        "title": "The text" if name == "text" else f"The text {name}",
        "text": text,
        "words": None if words is None else _words(words, text),
    }


def _image_part(found: Mapping[str, Any], name: str, image: Image.Image | None) -> dict[str, Any]:
    pixels = _of_field(found, "pixels", name)
    frame = _of_field(found, "frame", name)
    return {
        "title": "The image" if name == "image" else f"The image {name}",
        "picture": None if image is None else data_url(shrink(image)),
        "pixels": None if pixels is None or image is None else _pixels(pixels, frame, image),
    }


def _removed(state: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return what stands in for which modalities, those alike in one."""
    names: dict[str, list[str]] = {}
    for name, removed in state.items():
        if removed["by"] != "unused":
            names.setdefault(removed["meaning"], []).append(name)
    return [(" or ".join(alike), meaning) for meaning, alike in names.items()]


def _classes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    proba, parts, fields = found.get("probability") or found["prediction"], _contributions(found), list(found["fields"])
    names = sorted(proba, key=lambda name: -proba[name])[:_CLASSES]
    most = max((abs(parts[name][of]) for name in names for of in fields), default=0) or 1
    return [
        {
            "name": name,
            "proba": proba[name],
            "base": parts[name]["base"],
            "sum": parts[name]["base"] + sum(parts[name][of] for of in fields),
            "predicted": name == found["explained"],
            "parts": [
                {"kind": fill, "value": parts[name][of], "width": 50 * abs(parts[name][of]) / most}
                for of, fill in zip(fields, _FILLS, strict=False)
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


def _pixels(pixels: Mapping[str, Any], frame: Mapping[str, float], image: Image.Image) -> dict[str, Any]:
    geometry = CropGeometry(**frame)
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
