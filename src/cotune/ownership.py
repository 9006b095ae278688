"""Which folders cotune wrote. Nothing else is ever replaced or deleted.

Each kind of results folder has a small JSON file that says what wrote it. A folder without that file may be
written into as long as no file of it would be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.errors import CotuneError, RunError
from cotune.files import read_json

_WRITER = "cotune"
_SHOWN = 3


@dataclass(frozen=True)
class Kind:
    """One kind of results folder.

    Attributes
    ----------
    name : str
        What it is called, within its marker too.
    command : str
        What makes such a folder.
    markers : dict
        Files that tell who wrote the folder; the first one that can be read decides. The value names fields by which
        the file is known in folders older than the marks.
    files : tuple of str
        Patterns of all that is replaced or deleted in such a folder.
    """

    name: str
    command: str
    markers: dict[str, set[str]]
    files: tuple[str, ...]

    def mark(self) -> dict[str, str]:
        """Return the fields that tell who wrote a marker."""
        return {"written_by": _WRITER, "kind": self.name}

    def wrote(self, marker: str, value: Any) -> bool:
        """Tell whether `value` is what a `marker` of this kind holds."""
        if not isinstance(value, dict):
            return False
        if "written_by" in value:
            return value["written_by"] == _WRITER and value.get("kind") == self.name
        return self.markers[marker] <= value.keys()

    def owns(self, folder: Path) -> bool:
        """Tell whether cotune wrote `folder` as a folder of this kind."""
        for marker in self.markers:
            value = _read(folder / marker)
            if value is not None:
                return self.wrote(marker, value)
        return False

    def foreign(self, folder: Path) -> list[str]:
        """Return the names of files that would be replaced though cotune did not write them."""
        return [] if self.owns(folder) else list(dict.fromkeys(self._there(folder)))

    def refuse_foreign(self, folder: Path) -> None:
        """Refuse a folder in which files of somebody else would be replaced.

        Raises
        ------
        RunError
            With the names of such files.
        """
        found = self.foreign(folder)
        if found:
            shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
            raise RunError(
                f"{folder} holds files that `{self.command}` did not write and would replace ({shown}); "
                "choose another folder"
            )

    def _there(self, folder: Path) -> Iterator[str]:
        for pattern in self.files:
            for path in sorted(folder.glob(pattern)):
                yield path.relative_to(folder).as_posix()


RUN = Kind(
    "run",
    "cotune fit",
    # The second one tells of a run whose config.json is damaged, or was lost while it was replaced.
    {"config.json": {"format", "cotune", "fit"}, "environment.json": {"cotune", "packages", "data_hash"}},
    ("config.json", "labels.json", "model.safetensors", "metrics.json", "environment.json",
     "seen.safetensors", "README.md", "report.html", "posts.html", "posts_summary.safetensors",
     "text_encoder", "image_encoder", "encoders"),
)  # fmt: skip
EVALUATION = Kind(
    "evaluation",
    "cotune evaluate",
    {"metrics.json": {"run", "posts", "scores", "left_out"}},
    ("metrics.json", "predictions.csv", "report.html", "posts.html"),
)
EXPLANATIONS = Kind(
    "explanations",
    "cotune explain",
    {"summary.json": {"posts", "scored", "with_both", "lists"}, ".unfinished/key.json": {"classes", "posts"}},
    ("summary.json", ".unfinished", "modality.csv", "explanations.jsonl", "index.html", "conflicts.csv",
     "image_driven.csv", "text_driven.csv", "mistakes.csv", "posts/post-*.html"),
)  # fmt: skip
BENCHMARK = Kind(
    "benchmark",
    "cotune bench",
    {"bench.json": {"format", "cotune", "settings"}},
    ("bench.json", "folds.parquet", "predictions.parquet", "predictions.running", "failed.json", "results.md",
     "summary.json", "report.html", "cells/*.parquet", "table*.md", "table*.csv", "table*.tex",
     "learning_curve.*", "grid_*.*", "emap.*", "sanity.*"),
)  # fmt: skip
SEARCH = Kind(
    "search",
    "cotune tune",
    {"tune.json": {"format", "cotune", "settings"}},
    ("tune.json", "search.db", "parts.parquet", "test_predictions.safetensors", "best.yaml", "trials.csv",
     "summary.json", "report.html"),
)  # fmt: skip
DECISIONS = Kind(
    "decisions", "cotune decide", {"policy.json": {"written_by"}}, ("policy.json", "decisions.csv", "report.html")
)
CHECK = Kind(
    "check",
    "cotune check",
    {"check.json": {"posts", "labels", "advice", "duplicates"}},
    ("check.json", "report.html", "review.html"),
)
DRIFT = Kind("comparison", "cotune drift", {"drift.json": {"verdict", "tests"}}, ("drift.json", "report.html"))
EXPORT = Kind(
    "export",
    "cotune export",
    {"export.json": {"format", "cotune", "reads", "inputs"}},
    ("export.json", "model.onnx", "seen.safetensors", "README.md", "openvino", "text_encoder", "image_encoder",
     "encoders"),
)  # fmt: skip
PARTITIONS = Kind(
    "predictions in parts",
    "cotune predict --cluster",
    {"manifest.json": {"format", "cotune", "run", "posts"}},
    ("manifest.json", "_SUCCESS", "part-*.parquet"),
)
PREDICTIONS = Kind("unfinished predictions", "cotune predict", {"key.json": {"written_by"}}, ())


def _read(path: Path) -> Any:
    try:
        return read_json(path) if path.is_file() else None
    except CotuneError:  # what cannot be read tells nothing
        return None
