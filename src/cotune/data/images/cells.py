"""Whatever holds an image in Python, turned into what can be read: a path, encoded bytes, pixels."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from cotune.data.images.sources import MAX_BYTES

EXPECTED = "a path, URL, base64, bytes, binary file, PIL image, array or tensor"


def is_pixels(value: object) -> bool:
    """Tell whether `value` is an array or a PIL image."""
    return isinstance(value, np.ndarray) or (hasattr(value, "getbands") and hasattr(value, "size"))


def plain_image(value: Any) -> Any:
    """Return `value` as str, bytes, array or PIL image where it holds an image in another way, else as it is.

    Taken apart are paths, binary files (`io.BytesIO`), the dictionaries of Hugging Face `datasets`, and tensors,
    whose channels come first.
    """
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") or value.get("path")
    if isinstance(value, os.PathLike):
        return os.fsdecode(os.fspath(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | np.ndarray) or is_pixels(value):
        return value
    if hasattr(value, "getvalue"):  # wherever it was read up to
        return value.getvalue()
    if hasattr(value, "read"):
        return value.read(MAX_BYTES + 1)
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _tensor(value)
    return value


def _tensor(value: Any) -> np.ndarray[Any, Any]:
    plain = value.detach().cpu()
    if plain.is_floating_point():
        plain = plain.float()  # numpy has no bfloat16
    array: np.ndarray[Any, Any] = plain.numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.ascontiguousarray(array.transpose(1, 2, 0))
    return array
