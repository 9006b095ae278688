"""Which posts a model was trained on: hashes of eight bytes that tell the same posts and near-duplicates again.

Nothing of a post can be read from them. Who has a post can find out whether it was trained on, which is their purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.duplicates import Fingerprint, fingerprints, looks_like, text_key
from cotune.data.images.appearance import NO_HASH
from cotune.data.images.sources import is_url
from cotune.data.kinds import FIELD_KINDS
from cotune.errors import DataError
from cotune.fields import Field
from cotune.files import atomic_path, to_json

SEEN = "seen.safetensors"
#: What a post was used for.
TRAINED, WATCHED = 1, 2
#: What another post is to those that were trained on.
NEW, NEAR, SAME = 0, 1, 2
_FORM = 1

Keys = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class PostKeys:
    """Keys of posts; 0 stands for nothing.

    Attributes
    ----------
    content : ndarray of uint64
        Hash of all fields, shape (N,).
    text : ndarray of uint64
        Hash of the texts as near-duplicates are told by (see :func:`~cotune.data.duplicates.text_key`), shape (N,).
    images, looks : dict of ndarray of uint64
        By field: hash of the image's content, and its perceptual hash; 0 for images that are mostly of one shade, whose
        hash says little.
    """

    content: Keys
    text: Keys
    images: dict[str, Keys]
    looks: dict[str, Keys]

    def __len__(self) -> int:
        return len(self.content)

    @classmethod
    def of(
        cls,
        posts: pd.DataFrame,
        fields: Sequence[Field],
        known: Mapping[str, Sequence[Fingerprint | None]] | None = None,
    ) -> PostKeys:
        """Return the keys of posts as :func:`cotune.data.posts.read_posts` gives them.

        Parameters
        ----------
        posts : DataFrame
            The posts.
        fields : sequence of Field
            The fields that count.
        known : mapping, optional
            Fingerprints of images that are known already, by field. No image is fetched by URL: its address counts.
        """
        fields = [field for field in fields if field.name in posts]
        parts: list[Sequence[str | None]] = []
        images, looks = {}, {}
        for field in fields:
            cells = posts[field.name].tolist()
            if field.kind != "image":
                has, hashed = FIELD_KINDS[field.kind].has, FIELD_KINDS[field.kind].hashed
                parts.append([hashed(cell) if has(cell) else None for cell in cells])
                continue
            marks = (known or {}).get(field.name)
            found = [_mark(*pair) for pair in zip(cells, fingerprints(cells) if marks is None else marks, strict=True)]
            parts.append([None if mark is None else mark.key for mark in found])
            images[field.name] = _array(_hash(None if mark is None else mark.key) for mark in found)
            looks[field.name] = _array(NO_HASH if mark is None or mark.detail else mark.look for mark in found)
        rows = list(zip(*parts, strict=True)) if parts else [()] * len(posts)
        texts = [[text_key(text) for text in posts[field.name]] for field in fields if field.kind == "text"]
        keys = list(zip(*texts, strict=True)) if texts else [()] * len(posts)
        content, text = _array(_hash(*row) for row in rows), _array(_hash(*row) for row in keys)
        return cls(content, text, images, looks)

    @classmethod
    def joined(cls, parts: Sequence[PostKeys]) -> PostKeys:
        """Return the keys of all of several pieces."""
        images, looks = (
            {name: np.concatenate([getattr(part, kind)[name] for part in parts]) for name in getattr(parts[0], kind)}
            for kind in ("images", "looks")
        )
        content, text = (np.concatenate([getattr(part, kind) for part in parts]) for kind in ("content", "text"))
        return cls(content, text, images, looks)


@dataclass(frozen=True)
class SeenPosts:
    """The posts that a run has seen, as keys.

    Attributes
    ----------
    keys : PostKeys
        Theirs.
    role : ndarray of uint8
        :data:`TRAINED`, or :data:`WATCHED` for held-out posts that training was stopped by or thresholds chosen on.
    fields : tuple of str
        The fields that count: those that the model reads.
    """

    keys: PostKeys
    role: np.ndarray
    fields: tuple[str, ...]

    def compare(self, others: PostKeys) -> tuple[np.ndarray, np.ndarray]:
        """Compare other posts with them.

        Returns
        -------
        found : ndarray of int
            :data:`NEW`, :data:`NEAR` or :data:`SAME` for each of `others`: near-duplicates are what the folds
            ``grouped`` keep together (directly, not by a chain), except that an image mostly of one shade has to be
            the very same.
        watched : ndarray of bool
            Those that are new, but the same as a post of the role :data:`WATCHED`.
        """
        trained = self.role == TRAINED
        mine, found = self.keys, np.full(len(others), NEW)

        def equal(these: Keys, those: Keys) -> np.ndarray:
            return np.asarray((these != 0) & np.isin(these, those))

        near = equal(others.text, mine.text[trained])
        for name in mine.images.keys() & others.images.keys():
            near |= equal(others.images[name], mine.images[name][trained])
            near |= looks_like(others.looks[name], mine.looks[name][trained])
        found[near] = NEAR
        found[equal(others.content, mine.content[trained])] = SAME
        return found, equal(others.content, mine.content[~trained]) & (found == NEW)

    def save(self, path: Path) -> None:
        """Write them as safetensors, atomically."""
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray] = {
            "content": self.keys.content,
            "text": self.keys.text,
            "role": self.role.astype(np.uint8),
        }
        tensors |= {f"image:{name}": keys for name, keys in self.keys.images.items()}
        tensors |= {f"look:{name}": keys for name, keys in self.keys.looks.items()}
        about = to_json({"form": _FORM, "fields": self.fields}, indent=None)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"cotune": about})

    @classmethod
    def load(cls, path: Path) -> SeenPosts:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If it is damaged, or was written by a later version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["cotune"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if about.get("form") != _FORM or len({len(tensor) for tensor in tensors.values()}) != 1:
                raise DataError(f"{path} was not written by this version of cotune")
            images, looks = (
                {name.partition(":")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{kind}:")}
                for kind in ("image", "look")
            )
            keys = PostKeys(tensors["content"], tensors["text"], images, looks)
            return cls(keys, tensors["role"], tuple(map(str, about["fields"])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as fault:
            raise DataError(f"{path} cannot be read ({fault})") from fault


def _mark(image: Any, mark: Fingerprint | None) -> Fingerprint | None:
    """Return the fingerprint of an image; one of a URL is the same whether it is fetched or not."""
    return Fingerprint.of_address(image) if isinstance(image, str) and is_url(image) else mark


def _hash(*parts: str | None) -> int:
    """Return eight bytes of a hash as a number that is not 0; 0 where all parts are nothing."""
    if not any(parts):
        return 0
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update(f"{-1 if part is None else len(raw)}:".encode() + raw)
    return int.from_bytes(digest.digest(), "little") or 1


def _array(numbers: Iterator[int]) -> Keys:
    return np.asarray(list(numbers), dtype=np.uint64)
