"""What becomes of one architecture in every mode, as a user would meet it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from architectures import MAKERS, Architecture
from cotune.errors import CotuneError

MODES = ("frozen", "top", "joint", "lora")
TRAINED = (*MODES, "explained")
EXPORTED = "exported"
COLUMNS = (*TRAINED, EXPORTED)
#: How far probabilities may move with the company a post is in, from call to call, or by saving and opening.
TOLERANCE = 1e-5
WORKS = "works"


def outcomes(
    architecture: Architecture, modality: str, posts: pd.DataFrame, root: Path, columns: Sequence[str] = COLUMNS
) -> dict[str, str]:
    """Return, for each of the ways of training, explaining and exporting, ``works`` or the line that refuses it.

    Anything but a refusal in one line is raised: a traceback, an answer that varies, a run that opens as another.
    """
    encoder = str(MAKERS[modality](architecture, root / "encoder"))
    found: dict[str, str] = {}
    for mode in [mode for mode in MODES if mode in columns or (mode == MODES[0] and EXPORTED in columns)]:
        try:
            model = _trained(encoder, modality, mode, posts)
        except CotuneError as refusal:
            found[mode] = _without_names(refusal, encoder)
            continue
        found[mode] = WORKS
        if EXPORTED in columns and EXPORTED not in found:
            found[EXPORTED] = _exported(model, posts, root / "export", encoder)
        if columns == (EXPORTED,):
            break
        _check_answers(model, posts)
        reloaded = _saved_and_opened(model, root / f"run-{mode}")
        _close(f"{mode}, saved and opened", reloaded.predict_proba(_asked(posts)), model.predict_proba(_asked(posts)))
        if "explained" not in found:
            try:
                _check_explanation(reloaded, posts, modality)
                found["explained"] = WORKS
            except CotuneError as refusal:
                found["explained"] = _without_names(refusal, encoder)
    return {column: found.get(column, "no way to train it") for column in columns}


def _exported(model: Any, posts: pd.DataFrame, folder: Path, encoder: str) -> str:
    from cotune.export.export_run import export_run

    try:
        export_run(model.run_, folder, posts)
    except CotuneError as refusal:
        return _without_names(refusal, encoder)
    return WORKS


def _trained(encoder: str, modality: str, mode: str, posts: pd.DataFrame) -> Any:
    from cotune.estimators.classifier import JointClassifier

    model = JointClassifier(
        **{f"{modality}_encoder": encoder}, fusion=modality, tune=mode, epochs=1, min_epochs=1, probe_epochs=2,
        probe_lr=3e-3, batch_size=6, max_tokens=24, lr_text=1e-3, lr_image=1e-4, device="cpu",
    )  # fmt: skip
    return model.fit(_asked(posts), posts["label"])


def _asked(posts: pd.DataFrame) -> pd.DataFrame:
    return posts[["text", "image"]]


def _check_answers(model: Any, posts: pd.DataFrame) -> None:
    """Every post has the same answer twice, alone, and in another order."""
    asked = _asked(posts)
    proba = model.predict_proba(asked)
    assert np.isfinite(proba).all()
    assert np.ptp(proba, axis=0).max() > TOLERANCE, "posts must differ for the comparison to mean something"
    _close("asked twice", model.predict_proba(asked), proba)
    _close("in another order", model.predict_proba(asked.iloc[::-1])[::-1], proba)
    for i in range(len(asked)):
        _close("alone", model.predict_proba(asked.iloc[[i]]), proba[[i]])


def _check_explanation(model: Any, posts: pd.DataFrame, modality: str) -> None:
    """A post is explained by its words or its pixels."""
    explained = model.explain(_asked(posts).iloc[0].to_dict())
    part = explained.words.get("text") if modality == "text" else explained.images["image"].pixels
    assert part is not None, "nothing is explained"
    found = [word.gradient for word in part.words] if modality == "text" else part.map.ravel()
    assert len(found)
    assert np.isfinite(found).all()


def _saved_and_opened(model: Any, folder: Path) -> Any:
    import cotune

    model.save(folder)
    return cotune.load(folder)


def _close(what: str, found: np.ndarray, expected: np.ndarray) -> None:
    gap = float(np.abs(found - expected).max())
    assert gap <= TOLERANCE, f"{what}: probabilities differ by {gap:.2g}"


def _without_names(refusal: CotuneError, encoder: str) -> str:
    return " ".join(str(refusal).replace(encoder, "ENCODER").split())
