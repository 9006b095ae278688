"""What a run without cotune's encoders has to do with the cells of each field, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cotune.encoders.base import Encoder
from cotune.encoders.image import ImageEncoder
from cotune.encoders.preprocess import HFPreprocessor, Preprocessor, TimmPreprocessor
from cotune.encoders.table import TableEncoder
from cotune.encoders.text import TextEncoder
from cotune.encoders.tokenizer import PROBES
from cotune.errors import ExportError
from cotune.export.pixels import PixelSteps, steps_of_timm


def describe_field(encoder: Encoder, folder: Path, name: str) -> dict[str, Any]:
    """Return how a field is read, and write what it takes (its tokenizer) into `folder`.

    Parameters
    ----------
    encoder : Encoder
        The field's encoder.
    folder : Path
        Where the export is written.
    name : str
        A name for files of this encoder.

    Raises
    ------
    ExportError
        If the field cannot be read without the libraries that its encoder came from.
    """
    if isinstance(encoder, TextEncoder):
        return _describe_text(encoder, folder, name)
    if isinstance(encoder, ImageEncoder):
        return _describe_image(encoder, folder, name)
    if isinstance(encoder, TableEncoder):
        return {"kind": "table", "columns": encoder.describe()["columns"]}
    raise ExportError(f"fields of kind {encoder.modality!r} come from a plugin and cannot be exported")


def _describe_text(encoder: TextEncoder, folder: Path, name: str) -> dict[str, Any]:
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"{encoder.spec} has a tokenizer that is not one of the tokenizers library "
            f"({type(encoder.tokenizer).__name__}); it cannot be exported"
        )
    file = f"{name}/tokenizer.json"
    (folder / name).mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / file))
    about = {
        "kind": "text",
        "tokenizer": file,
        "max_tokens": encoder.max_tokens,
        "pad_id": encoder.pad_id,
        "multiple": encoder.multiple,
        "padded": encoder.padded,
        "by_length": encoder.by_length,
    }
    _check_tokens(encoder, folder, about)
    return about


def _check_tokens(encoder: TextEncoder, folder: Path, about: Mapping[str, Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from cotune.export.inputs import TextReader

    texts = [*PROBES, "word " * 2 * encoder.max_tokens, "a", "h\u200bate h\u0430te h4te"]
    with ThreadPoolExecutor(1) as pool:
        found = TextReader(folder / about["tokenizer"], about).read(texts, pool).rows
    for text, own, theirs in zip(texts, encoder.tokenize(texts), found, strict=True):
        if theirs is None or not np.array_equal(own, theirs):
            raise ExportError(
                f"{encoder.spec}: the tokenizers library reads {text[:40]!r} otherwise than transformers does; it "
                "cannot be exported"
            )


def _describe_image(encoder: ImageEncoder, folder: Path, name: str) -> dict[str, Any]:
    preprocessor = encoder.preprocessor
    if isinstance(preprocessor, HFPreprocessor) and preprocessor.gives_bytes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        preprocessor.save(folder / name)
        return {"kind": "image", "processor": name, "size": list(preprocessor.size)}
    return {"kind": "image", "pixels": pixel_steps(encoder).to_json()}


def pixel_steps(encoder: ImageEncoder) -> PixelSteps:
    """Return the preprocessing of an image encoder as plain steps, proven on images of several shapes.

    Raises
    ------
    ExportError
        If it does something else than resizing and cropping as Pillow does it.
    """
    steps = steps_of_timm(encoder.preprocessor.config) if isinstance(encoder.preprocessor, TimmPreprocessor) else None
    if steps is None or not _same_pixels(encoder.preprocessor, steps):
        raise ExportError(
            f"{encoder.spec}: its image preprocessing is more than resizing and cropping as Pillow does it; it cannot "
            "be exported"
        )
    return steps


def _same_pixels(preprocessor: Preprocessor, steps: PixelSteps) -> bool:
    random = np.random.default_rng(0)
    for width, height in ((640, 427), (427, 640), (300, 300), (40, 900), (33, 21)):
        coarse = random.integers(0, 256, (9, 13, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        if not np.array_equal(preprocessor(image), steps(image)):
            return False
    return True
