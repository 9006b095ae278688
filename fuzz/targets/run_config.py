"""Runs of strangers: `config.json`, sealed as it should be, of a folder whose other files are whole."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from targets._sealed import sealed_again

from cotune.run import load_run, save_run
from cotune.run_settings import CONFIG, read_settings
from explained import random_run
from tiny import Zoo

WORDS = ('"encoders"', '"head"', '"task"', '"name"', '"settings"', '"dims"', '"fit"', '"shared"', '"needs"', '"format"',
         '"checksums"', '"self_test"', '"label_type"', '"classes"', "attention", "concat", "members", "single-label",
         "regression", "annotated", "multi-label", "../", "null", "[]", "{}", "-1", "0", "1e9", "true")  # fmt: skip
_RUN = Path(tempfile.mkdtemp(prefix="cotune-fuzz-run-")) / "run"
save_run(_RUN, random_run(Zoo(_RUN.parent), head="concat"))
_CONFIG = (_RUN / CONFIG).read_bytes()


def seeds() -> list[bytes]:
    """Return the run's own configuration, and that without what is not needed."""
    whole = json.loads(_CONFIG)
    slim = {name: value for name, value in whole.items() if name not in ("checksums", "self_test", "parameters")}
    return [json.dumps(whole).encode(), json.dumps(slim).encode(), json.dumps({**slim, "fit": {}}).encode()]


def read(data: bytes, folder: Path) -> None:
    """Open the run, its weights too."""
    sealed = sealed_again(data)
    (_RUN / CONFIG).write_bytes(data if sealed is None else sealed)
    read_settings(_RUN)
    load_run(_RUN)
