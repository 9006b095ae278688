"""A run folder as its small files say it: names, settings, and whether they are whole. It imports no torch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from cotune.checksums import seal_holds
from cotune.errors import CotuneError, RunError
from cotune.files import read_json
from cotune.ownership import RUN

CONFIG, LABELS, WEIGHTS = "config.json", "labels.json", "model.safetensors"
METRICS, ENVIRONMENT, CARD = "metrics.json", "environment.json", "README.md"
REPORT, POSTS_PAGE = "report.html", "posts.html"
SUMMARY = "posts_summary.safetensors"
FORMAT = 2
ENCODER_FOLDERS = ("text_encoder", "image_encoder", "encoders")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return a run's ``config.json``.

    Raises
    ------
    RunError
        If the folder is no complete run.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}; `cotune fit POSTS --out {folder}` makes one")
    if not (folder / CONFIG).is_file():
        raise RunError(
            f"{folder} is no finished run (it has no {CONFIG}); go on with `cotune fit ... --resume`, "
            "or give another folder"
        )
    try:
        settings: dict[str, Any] = read_json(folder / CONFIG)
    except CotuneError as fault:
        raise RunError(damaged(folder / CONFIG, f"is damaged ({fault})")) from fault
    if not RUN.wrote(CONFIG, settings):
        raise RunError(f"{folder / CONFIG} was not written by cotune; give the folder that `cotune fit` made")
    if not isinstance(settings.get("format"), int) or settings["format"] > FORMAT:
        raise RunError(
            f"{folder} was made by cotune {settings.get('cotune')}, which writes a newer form; update cotune"
        )
    if not seal_holds(settings):
        raise RunError(damaged(folder / CONFIG, "was changed (its checksum differs)"))
    return settings


def damaged(path: Path, what: str) -> str:
    """Return what to say of a damaged file of a run, and what to do."""
    return f"{path} {what}; copy the run again from where it was whole, or train it again"


def encoder_folder(field: str) -> str:
    """Return where in a run the files of a field's encoder are; names that no folder can have are written otherwise."""
    if f"{field}_encoder" in ENCODER_FOLDERS:
        return f"{field}_encoder"
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", field)[:60]
    mark = "" if safe == field else f"-{hashlib.blake2b(field.encode(), digest_size=4).hexdigest()}"
    return f"encoders/{safe}{mark}"
