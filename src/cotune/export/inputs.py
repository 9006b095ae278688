"""From the cells of posts to the arrays that an exported graph reads; no torch, no transformers.

What has to be done is written in the export's description, field by field.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from cotune.data.duplicates import Fingerprint
from cotune.data.images.load import ImageFault, read_image
from cotune.data.images.pixels import not_too_long
from cotune.data.tables.cells import has_image, has_text
from cotune.encoders.table_columns import CellReader, Column
from cotune.errors import ExportError
from cotune.export.pixels import PixelSteps

Arrays = dict[str, np.ndarray]


class Inputs:
    """One field of some posts.

    Attributes
    ----------
    present : ndarray of bool
        Which posts have it.
    rows : list
        What each post has: token ids, pixels or cells; None for a post that lacks the field.
    keys : list
        The content of each: equal keys have equal rows.
    lengths : ndarray of int
        By which posts are put into batches.
    faults : dict
        Position of a post to what is wrong with its image.
    problems : dict
        Position of a post to what of it could not be read and counts as missing.
    fingerprints : list or None
        What each image is known by, if it was asked for.
    """

    def __init__(self, rows: Sequence[np.ndarray | None], keys: Sequence[Hashable]) -> None:
        self.rows, self.keys = list(rows), list(keys)
        self.present = np.asarray([row is not None for row in self.rows], dtype=bool)
        self.lengths = np.zeros(len(self.rows), dtype=np.int64)
        self.faults: dict[int, ImageFault] = {}
        self.problems: dict[int, str] = {}
        self.fingerprints: list[Fingerprint | None] | None = None


class FieldReader(abc.ABC):
    """Reads the cells of one field."""

    #: What reading it is called where time is reported.
    step: ClassVar[str]
    #: Whether posts of different length must not meet in a batch.
    by_length = False

    @abc.abstractmethod
    def read(self, values: Sequence[Any], pool: Executor) -> Inputs:
        """Read the field's cells of some posts."""

    @abc.abstractmethod
    def batch(self, rows: Sequence[np.ndarray | None]) -> Arrays:
        """Return the inputs of a batch; a post that lacks the field gets some that the network takes."""


class TextReader(FieldReader):
    """Tokenises texts.

    Parameters
    ----------
    path : Path
        The tokenizer's ``tokenizer.json``.
    about : mapping
        ``max_tokens``, ``pad_id``, ``multiple`` (the number of tokens whose multiple a text has to have), ``padded``
        (whether every text has ``max_tokens``) and ``by_length``.
    """

    step = "tokenise"

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.about = dict(about)
        self.by_length = bool(about["by_length"])
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ExportError(f"{path} cannot be read ({str(error)[:200]}); export the run again") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(int(about["max_tokens"]))

    def read(self, values: Sequence[Any], pool: Executor) -> Inputs:
        """Tokenise all texts at once, equal ones once."""
        texts = [str(value) if has_text(value) else None for value in values]
        once = list(dict.fromkeys(text for text in texts if text is not None))
        found = dict(zip(once, map(self._ids, self._tokenizer.encode_batch_fast(once) if once else []), strict=True))
        rows = [None if text is None else found[text] for text in texts]
        result = Inputs(rows, texts)
        result.lengths = np.asarray([0 if row is None else len(row) for row in rows], dtype=np.int64)
        return result

    def _ids(self, encoded: Any) -> np.ndarray:
        ids = np.asarray(encoded.ids or [self.about["pad_id"]], dtype=np.int64)
        if self.about["padded"]:
            ids = np.pad(ids, (0, self.about["max_tokens"] - len(ids)), constant_values=self.about["pad_id"])
        return ids

    def batch(self, rows: Sequence[np.ndarray | None]) -> Arrays:
        """Pad token ids to the longest of the batch."""
        n, multiple = len(rows), int(self.about["multiple"])
        longest = max((len(row) for row in rows if row is not None), default=1)
        width = -(-longest // multiple) * multiple
        ids = np.full((n, width), self.about["pad_id"], dtype=np.int64)
        mask = np.zeros((n, width), dtype=np.int64)
        for i, row in enumerate(rows):
            if row is None:
                mask[i, : longest if self.by_length else 1] = 1  # an empty row would divide by zero
            else:
                ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}


class Pixels(Protocol):
    """Turns an image into the bytes that a network reads, shape (3, height, width)."""

    size: tuple[int, int]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the pixels, uint8."""


class ImageReader(FieldReader):
    """Decodes, resizes and crops images.

    Parameters
    ----------
    steps : Pixels
        How.
    allow_remote : bool
        Whether images may be fetched by URL.
    """

    step = "decode"

    def __init__(self, steps: Pixels, *, allow_remote: bool = False) -> None:
        self.steps, self.allow_remote = steps, allow_remote
        #: Whether fingerprints are wanted too.
        self.looks = False

    def read(self, values: Sequence[Any], pool: Executor) -> Inputs:
        """Decode all images, in the threads of `pool`; equal ones once, by name or by content."""
        names = [value if isinstance(value, str | bytes) else id(value) for value in values]
        decoded: dict[str, np.ndarray] = {}
        marks: dict[str, Fingerprint] = {}
        once = dict(zip(names, values, strict=True))
        found = dict(zip(once, pool.map(lambda value: self._one(value, decoded, marks), once.values()), strict=True))
        keys = [each if isinstance(each := found[name], str) else None for name in names]
        result = Inputs([None if key is None else decoded[key] for key in keys], keys)
        result.faults = {i: each for i, name in enumerate(names) if isinstance(each := found[name], ImageFault)}
        if self.looks:
            result.fingerprints = [None if key is None else marks.get(key) for key in keys]
        return result

    def _one(
        self, value: Any, decoded: dict[str, np.ndarray], marks: dict[str, Fingerprint]
    ) -> str | ImageFault | None:
        """Add an image's pixels, and its fingerprint, to those there already, by its content key; return the key."""
        if not has_image(value):
            return None
        try:
            image = read_image(value, allow_remote=self.allow_remote)
            if image.key not in decoded:  # two threads may decode one image at once, to the same pixels
                decoded[image.key] = self.steps(not_too_long(image.decode(min_side=2 * max(self.steps.size))))
                if self.looks:
                    marks[image.key] = Fingerprint.of_read(image)
            return image.key
        except ImageFault as fault:
            return fault

    def batch(self, rows: Sequence[np.ndarray | None]) -> Arrays:
        """Stack the pixels, bytes of shape (B, 3, H, W)."""
        pixels = np.zeros((len(rows), 3, *self.steps.size), dtype=np.uint8)
        for i, row in enumerate(rows):
            if row is not None:
                pixels[i] = row
        return {"pixels": pixels}


class TableReader(FieldReader):
    """Reads columns of numbers and categories.

    Parameters
    ----------
    columns : sequence of mapping
        ``name``, ``kind`` and ``values`` of each.
    """

    step = "cells"

    def __init__(self, columns: Sequence[Mapping[str, Any]]) -> None:
        self.columns = tuple(Column(each["name"], each["kind"], tuple(each["values"])) for each in columns)
        self._reader = CellReader(self.columns)

    def read(self, values: Sequence[Any], pool: Executor) -> Inputs:
        """Read all cells; a post whose cells are all missing lacks the field."""
        cells = self._reader.cells(values)
        result = Inputs([None if np.isnan(row).all() else row for row in cells], [row.tobytes() for row in cells])
        result.problems = self._reader.problems(values)
        return result

    def batch(self, rows: Sequence[np.ndarray | None]) -> Arrays:
        """Stack the cells, NaN where one is missing."""
        empty = np.full(self._reader.n_columns, np.nan, dtype=np.float32)
        return {"cells": np.stack([empty if row is None else row for row in rows])}


def open_reader(folder: Path, about: Mapping[str, Any], *, allow_remote: bool = False) -> FieldReader:
    """Return what reads a field, as an export's description says."""
    kind = about["kind"]
    if kind == "text":
        return TextReader(folder / about["tokenizer"], about)
    if kind == "image":
        if "pixels" in about:
            return ImageReader(PixelSteps.from_json(about["pixels"]), allow_remote=allow_remote)
        return ImageReader(_open_processor(folder / about["processor"]), allow_remote=allow_remote)
    if kind == "table":
        return TableReader(about["columns"])
    raise ExportError(f"{folder} has a field of kind {kind!r}, which this version of cotune does not read; update it")


def _open_processor(folder: Path) -> Pixels:
    """Open an image processor of transformers, which brings torch."""
    from transformers import AutoImageProcessor

    from cotune.encoders.hf import reading
    from cotune.encoders.preprocess import HFPreprocessor

    return HFPreprocessor(AutoImageProcessor.from_pretrained(folder, **reading(True)))
