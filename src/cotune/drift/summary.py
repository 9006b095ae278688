"""What a run keeps of the posts it was trained on, so that new posts can be compared with them.

Numbers alone: embeddings, predictions, labels, lengths and sizes of a bounded random sample, and counts. It holds no
text, no image, no id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cotune.data.images.load import image_pixels
from cotune.data.kinds import FIELD_KINDS
from cotune.errors import RunError, first_line
from cotune.fields import Field
from cotune.files import atomic_path
from cotune.metrics.scores import one_hot
from cotune.tasks import Task

if TYPE_CHECKING:
    from cotune.heads import Embeddings

#: Posts of the sample at most.
SAMPLE = 512
_FORMAT = 1
_LARGEST = 65504.0  # of float16
_EMBEDDING, _MEASURE = "embedding:", "measure:"


@dataclass(frozen=True)
class PostsSummary:
    """Posts as numbers.

    Attributes
    ----------
    embeddings : dict
        By field the embeddings of the posts of the sample, shape (n, dim); NaN where a post does not have it.
    labels, predicted : ndarray or None
        Which labels the posts of the sample have, and are predicted, boolean, shape (n, K); of values, the values.
    measures : dict
        Numbers of the posts of the sample, by what is measured: characters of a text, pixels of an image.
    counts : dict
        By what posts may have, such as a missing field: how many have it, of how many.
    about : dict
        ``posts`` is how many there are, ``sampled`` how many of them are in the sample, ``unseen`` whether the model
        was not trained on the sample, ``encoders_trained`` whether its encoders were fine-tuned.
    """

    embeddings: dict[str, np.ndarray]
    labels: np.ndarray | None = None
    predicted: np.ndarray | None = None
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def write_summary(summary: PostsSummary, path: Path) -> None:
    """Write a summary as safetensors; counts and the rest stand in the header as JSON."""
    from safetensors.numpy import save_file

    arrays = {f"{_EMBEDDING}{name}": part.astype(np.float16) for name, part in summary.embeddings.items()}
    arrays |= {f"{_MEASURE}{name}": part for name, part in summary.measures.items()}
    arrays |= {name: part for name in ("labels", "predicted") if (part := getattr(summary, name)) is not None}
    arrays = {name: np.ascontiguousarray(part) for name, part in arrays.items()}
    header = {"format": _FORMAT, "counts": summary.counts, "about": summary.about}
    with atomic_path(path) as unfinished:
        save_file(arrays, unfinished, metadata={"summary": json.dumps(header, sort_keys=True)})


def read_summary(path: Path) -> PostsSummary:
    """Read what :func:`write_summary` wrote.

    Raises
    ------
    RunError
        If it cannot be read, or is of a later version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["summary"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] > _FORMAT:
            raise RunError(f"{path} was written by a later version of cotune; update cotune")
        counts = {str(name): (int(has), int(of)) for name, (has, of) in header["counts"].items()}
        about = dict(header["about"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as fault:
        raise RunError(f"{path} cannot be read ({first_line(fault, 200)})") from fault
    named = {
        kind: {name.removeprefix(kind): part for name, part in arrays.items() if name.startswith(kind)}
        for kind in (_EMBEDDING, _MEASURE)
    }
    embeddings = {name: part.astype(np.float32) for name, part in named[_EMBEDDING].items()}
    return PostsSummary(embeddings, arrays.get("labels"), arrays.get("predicted"), named[_MEASURE], counts, about)


def as_labels(task: Task, targets: np.ndarray) -> np.ndarray:
    """Return targets as the tests of a shift take them: which labels each post has, or the values."""
    targets = targets[task.scored(targets)]
    if task.target_type == "multiclass":
        targets = one_hot(targets, len(task.outputs))
    found: np.ndarray = targets.astype(np.float64) if task.target_type == "continuous" else targets == 1
    return found


def as_predicted(task: Task, predictions: np.ndarray) -> np.ndarray:
    """Return predictions as :func:`as_labels` returns targets."""
    if task.target_type == "continuous":
        return np.asarray(predictions[:, 0], dtype=np.float64)
    return as_labels(task, task.encode(task.decode(predictions)))


def as_arrays(embeddings: Embeddings) -> dict[str, np.ndarray]:
    """Return embeddings as a summary keeps them: float16, NaN where a post does not have the field."""
    absent = ~embeddings.present
    parts = ((name, part.float().masked_fill(absent[:, i, None], float("nan"))) for i, (name, part) in
             enumerate(embeddings.items()))  # fmt: skip
    return {name: part.clamp(-_LARGEST, _LARGEST).half().cpu().numpy() for name, part in parts}


def measured(posts: pd.DataFrame, fields: Sequence[Field]) -> dict[str, np.ndarray]:
    """Return the characters of the texts, and the pixels of the images, of the posts that have them.

    Images are opened, not decoded; those behind a URL are not fetched.
    """
    found: dict[str, np.ndarray] = {}
    for one in fields:
        if one.kind not in ("text", "image") or one.name not in posts:
            continue
        values = [value for value in posts[one.name] if FIELD_KINDS[one.kind].has(value)]
        if one.kind == "text":
            found[f"characters of {one.name}"] = np.array([len(value) for value in values], dtype=np.float64)
        else:
            found[f"pixels of {one.name}"] = np.array([n for value in values if (n := image_pixels(value))], np.float64)
    return found


def counted(
    posts: pd.DataFrame, fields: Sequence[Field], unreadable_images: int, unreadable_cells: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """Return how many posts lack each field, have an unreadable image or an unreadable cell, each of how many.

    Parameters
    ----------
    posts : DataFrame
        The posts.
    fields : sequence of Field
        What a post has.
    unreadable_images : int
        Posts with such.
    unreadable_cells : (int, int)
        Posts with such, of how many, which may be more than `posts`.
    """
    has = {one: np.array([FIELD_KINDS[one.kind].has(value) for value in posts[one.name]], dtype=bool)
           for one in fields if one.name in posts}  # fmt: skip
    found = {f"no {one.name}": (int((~there).sum()), len(posts)) for one, there in has.items()}
    images = [there for one, there in has.items() if one.kind == "image"]
    if images:
        found["an unreadable image"] = (unreadable_images, int(np.logical_or.reduce(images).sum()))
    return found | {"an unreadable cell": unreadable_cells}
