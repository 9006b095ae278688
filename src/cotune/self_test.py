"""What tokenizer and image preprocessing give for fixed inputs: recorded with a run, compared when it is opened.

Files that are unchanged do not give the same tokens and pixels for ever: libraries read them, and libraries change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cotune._version import __version__
from cotune.encoders.base import Encoder
from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.errors import RunError

#: Texts of kinds in which tokenizers differ.
TEXTS = {
    "words": "The quick brown fox isn't here; it's gone!",
    "capitals": "GOOD Morning EveryOne",
    "emoji": "so happy \U0001f600\U0001f44d\U0001f3fd \u2764\ufe0f",
    "accents": "caf\u00e9 na\u00efve \u00dcber e\u0301",
    "CJK": "\u4eca\u65e5\u306f\u826f\u3044\u5929\u6c17 \ud55c\uad6d\uc5b4 \u4f60\u597d",
    "digits": "12,345.67 in 2024 at 10:30",
    "posts": "@user loves #Sunshine https://example.org/a?b=1",
    "spaces": "  two  spaces\tand\nlines ",
}
_PACKAGES = ("transformers", "tokenizers", "timm", "torchvision", "torch", "pillow", "numpy")
# Two versions of a library may round or resample a little differently, which no model notices.
_LEVELS, _BLOCKS = 1.5, 4


def record(encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    """Return what the encoders give for the fixed inputs, and the versions of the libraries that gave it."""
    found: dict[str, Any] = {"versions": _versions()}
    for name, encoder in ((name, encoder.face) for name, encoder in encoders.items()):
        if isinstance(encoder, TextEncoder):
            found[name] = {"tokens": _tokens(encoder)}
        elif isinstance(encoder, ImageEncoder):
            found[name] = {"pixels": _pixels(encoder)}
    return found


def difference(encoders: Mapping[str, Encoder], recorded: Mapping[str, Any]) -> str | None:
    """Return what has changed since `recorded` was made, in words; None for nothing that matters.

    Parameters
    ----------
    encoders : mapping
        The encoders by modality.
    recorded : mapping
        What :func:`record` returned.
    """
    for name, encoder in ((name, encoder.face) for name, encoder in encoders.items()):
        before = recorded.get(name, {})
        if isinstance(encoder, TextEncoder) and "tokens" in before:
            now = _tokens(encoder)
            other = [kind for kind, mark in before["tokens"].items() if kind in now and now[kind] != mark]
            if other:
                return f"its tokenizer gives other tokens than when it was saved (tried: {', '.join(other)})"
        if isinstance(encoder, ImageEncoder) and "pixels" in before and not _alike(before["pixels"], _pixels(encoder)):
            return "its image preprocessing gives other pixels than when it was saved"
    return None


def refuse_changed(
    folder: Path, encoders: Mapping[str, Encoder], recorded: Mapping[str, Any], added: Sequence[str]
) -> None:
    """Refuse a run whose tokens or pixels are others than when it was saved.

    Parameters
    ----------
    folder : Path
        The run.
    encoders : mapping
        Its encoders, built from its files.
    recorded : mapping
        What :func:`record` returned when it was saved.
    added : sequence of str
        Files in the folder that it was not saved with.

    Raises
    ------
    RunError
        With what has changed: a file that was added, the version of a library, or neither.
    """
    found = difference(encoders, recorded)
    if found is None:
        return
    if added:
        raise RunError(f"{folder}: {found}; remove {', '.join(added)}, which the run was not saved with")
    changes = version_changes(recorded)
    if changes:
        raise RunError(
            f"{folder}: {found}, though its files are unchanged; a library has another version ({changes}): install "
            "the one of then, or train the run again"
        )
    raise RunError(f"{folder}: {found}, though neither its files nor the libraries have changed; train it again")


def version_changes(recorded: Mapping[str, Any]) -> str:
    """Return the libraries whose version differs from the recorded one, such as ``timm 1.0.15, now 1.0.20``."""
    now = _versions()
    before = recorded.get("versions", {})
    return ", ".join(
        f"{name} {version or 'not installed'}, now {now[name] or 'not installed'}"
        for name, version in before.items()
        if name in now and now[name] != version
    )


def _tokens(encoder: TextEncoder) -> dict[str, str]:
    rows = encoder.tokenize(list(TEXTS.values()))
    return {
        kind: hashlib.sha256(np.asarray(row, dtype="<i4").tobytes()).hexdigest()[:16]
        for kind, row in zip(TEXTS, rows, strict=True)
    }


def _pixels(encoder: ImageEncoder) -> dict[str, Any]:
    preprocessor = encoder.preprocessor
    pixels = np.asarray(preprocessor(_test_image()))
    # Means over a few blocks tell a rounding from another crop, another order of channels or another size.
    rows = np.array_split(pixels.astype(np.float64), _BLOCKS, axis=-2)
    blocks = [[part.mean(axis=(-2, -1)) for part in np.array_split(row, _BLOCKS, axis=-1)] for row in rows]
    return {
        "shape": list(pixels.shape),
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "means": np.round(blocks, 2).tolist(),
        "scale": np.round(np.asarray(preprocessor.scale, dtype=np.float64), 6).tolist(),
        "shift": np.round(np.asarray(preprocessor.shift, dtype=np.float64), 5).tolist(),
    }


def _alike(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if before["shape"] != now["shape"]:
        return False
    close = all(np.allclose(before[name], now[name], rtol=1e-3, atol=1e-4) for name in ("scale", "shift"))
    if before["sha256"] == now["sha256"]:
        return close
    return close and bool(np.abs(np.subtract(before["means"], now["means"])).max() <= _LEVELS)


def _test_image() -> Image.Image:
    """Return a small image without symmetry, whose channels differ."""
    down, across = np.mgrid[0:60, 0:80]
    planes = [across * 3, down * 4, (across + 2 * down) % 64 * 4]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"cotune": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
