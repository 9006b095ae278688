"""Tokens and pixels of fixed inputs, compared with those of when a run was saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune import self_test
from cotune.encoders.preprocess import TimmPreprocessor
from cotune.errors import RunError
from cotune.run import load_run, save_run
from explained import random_run
from tiny import Zoo


@pytest.fixture
def run(zoo: Zoo, tmp_path: Path) -> Path:
    save_run(tmp_path / "run", random_run(zoo))
    return tmp_path / "run"


def recorded(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "config.json").read_text())["self_test"]
    return found


@pytest.mark.parametrize("text", ["bert", "roberta", "deberta-v2"])
@pytest.mark.parametrize("image", ["timm-resnet", "vit", "convnext"])
def test_a_run_gives_what_it_gave(zoo: Zoo, tmp_path: Path, text: str, image: str) -> None:
    run = random_run(zoo, text=text, image=image)
    save_run(tmp_path / "run", run)
    again = load_run(tmp_path / "run")
    said = recorded(tmp_path / "run")
    assert self_test.difference(again.model.encoders, said) is None
    assert self_test.version_changes(said) == ""
    assert len(set(said["text"]["tokens"].values())) == len(self_test.TEXTS)


def test_other_tokens_of_the_same_files_name_the_versions(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cotune.encoders.text import TextEncoder

    real = TextEncoder.tokenize
    monkeypatch.setattr(TextEncoder, "tokenize", lambda self, texts: real(self, [t.upper()[:3] for t in texts]))
    with pytest.raises(RunError, match="other tokens .*though neither its files nor the libraries have changed"):
        load_run(run)
    monkeypatch.setattr(self_test, "_versions", lambda: {**recorded(run)["versions"], "tokenizers": "99.0"})
    version = recorded(run)["versions"]["tokenizers"]
    with pytest.raises(RunError, match=rf"files are unchanged; a library .*tokenizers {version}, now 99.0.*install"):
        load_run(run)


def test_a_file_that_was_added_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "text_encoder" / "added_tokens.json").write_text("{}")
    load_run(run)
    monkeypatch.setattr(self_test, "difference", lambda *_: "its tokenizer gives other tokens")
    with pytest.raises(RunError, match="remove text_encoder/added_tokens.json"):
        load_run(run)


@pytest.mark.parametrize(
    ("change", "harmless"),
    [
        (lambda pixels: np.clip(pixels.astype(int) + 1, 0, 255).astype(np.uint8), True),
        (lambda pixels: pixels[::-1], False),
        (lambda pixels: np.roll(pixels, 4, axis=2), False),
        (lambda pixels: pixels[:, :16], False),
    ],
)
def test_pixels_may_differ_by_a_rounding_and_no_more(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray], harmless: bool
) -> None:
    real = TimmPreprocessor.__call__
    monkeypatch.setattr(
        TimmPreprocessor, "__call__", lambda self, image: np.ascontiguousarray(change(real(self, image)))
    )
    if harmless:
        load_run(run)
        return
    with pytest.raises(RunError, match="its image preprocessing gives other pixels"):
        load_run(run)


def test_another_normalisation_is_another_input(zoo: Zoo, run: Path) -> None:
    encoders = load_run(run).model.encoders
    said = recorded(run)
    changed = copy.deepcopy(said)
    changed["image"]["pixels"]["scale"][0] *= 1.5
    assert (
        self_test.difference(encoders, changed) == "its image preprocessing gives other pixels than when it was saved"
    )
    assert self_test.difference(encoders, {}) is None
