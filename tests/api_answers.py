"""Answers of the API for models that are laborious to train: many labels, several images, a table, a number."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image, ImageDraw

LIMITS = {"body_bytes": 20_000_000, "image_pixels": 40_000_000, "batch": 32}
TEXT, IMAGE = (
    {"name": "text", "kind": "text", "columns": ["text"]},
    {"name": "image", "kind": "image", "columns": ["image"]},
)


def model(
    task: str = "single-label", labels: list[str] | None = None, *, fields: Any = (TEXT, IMAGE), **more: Any
) -> dict[str, Any]:
    """Return what ``/v1/model`` says of one model."""
    about = {"name": "mine", "task": task, "labels": labels, "thresholds": None, "fields": list(fields)}
    return {**about, "run": "mine", "engine": "torch", "explains": True, **more}


def models(*some: dict[str, Any]) -> dict[str, Any]:
    """Return the whole answer of ``/v1/model``."""
    return {"models": list(some), "default": some[0]["name"], "limits": LIMITS}


def prediction(**values: Any) -> dict[str, Any]:
    """Return one prediction."""
    nothing = {"id": "1", "label": None, "probabilities": None, "value": None, "shares": None, "error": None}
    return {**nothing, **values}


def predicted(*some: dict[str, Any]) -> dict[str, Any]:
    """Return the whole answer of ``/v1/predict``."""
    return {"model": "mine", "run": "mine", "request_id": "r-1", "predictions": list(some)}


def drawing() -> Image.Image:
    """Return an image to send."""
    image = Image.new("RGB", (320, 220), "#8ec5e8")
    draw = ImageDraw.Draw(image)
    draw.ellipse((220, 20, 290, 90), fill="#f7d354")
    draw.polygon([(0, 220), (110, 90), (230, 220)], fill="#4d7a4f")
    return image


def png(image: Image.Image) -> bytes:
    """Return the image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def explained(found: dict[str, Any], text: str, label: str | None, fields: Any = (TEXT, IMAGE)) -> dict[str, Any]:
    """Return the whole answer of ``/v1/explain``: every word counts, in turn for and against."""
    words, at = [], 0
    for i, word in enumerate(text.split()):
        start = text.index(word, at)
        at = start + len(word)
        words.append({"word": word, "start": start, "end": at, "value": (1 - i % 3) / (1 + i / 5)})
    url = "data:image/png;base64," + base64.b64encode(png(drawing().convert("L").convert("RGB"))).decode()
    return {
        "model": "mine",
        "run": "mine",
        "request_id": "r-2",
        "prediction": found,
        "explained": label,
        "contributions": {field["name"]: (1.3 if i % 2 == 0 else -0.6) for i, field in enumerate(fields)},
        "words": {field["name"]: words for field in fields if field["kind"] == "text"},
        "overlays": {field["name"]: url for field in fields if field["kind"] == "image"},
    }
