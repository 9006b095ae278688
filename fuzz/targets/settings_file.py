"""Files of settings (`fit --config`), YAML or JSON."""

from __future__ import annotations

import json
from pathlib import Path

from cotune.settings import FitConfig, make_config

WORDS = (*(f"{name.replace('_', '-')}: " for name in FitConfig.model_fields), "null", "true", "[", "]", "{", "}", ".nan",
         ".inf", "-1", "1e400", '"fit"', '"written_by"', "cotune", "&a", "*a")  # fmt: skip


def seeds() -> list[bytes]:
    """Return settings in both forms."""
    return [
        b"tune: top\nepochs: 3\nlr-head: 0.0005\nfusion: concat\n",
        b"fields: null\nwidth: 64\nheads: 4\nseed: 1\nvalidation: 0.2\n",
        json.dumps(FitConfig().model_dump(mode="json")).encode(),
        json.dumps({"written_by": "cotune", "kind": "run", "fit": {"epochs": 2}}).encode(),
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the settings; written as a file they have to be the same ones."""
    path = folder / ("settings.json" if data[:1] == b"{" else "settings.yaml")
    path.write_bytes(data)
    config = make_config({}, file=path)
    config.read_fields()
    if make_config(config.model_dump()) != config:
        raise AssertionError("settings that are others once they were written")
