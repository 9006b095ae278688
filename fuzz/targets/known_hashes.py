"""Tables of hashes of known images (`predict --known`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cotune.data.known_images import read_known

WORDS = (
    "hash",
    "name",
    "algorithm",
    "phash",
    "0x",
    ",",
    "\n",
    "0000000000000000",
    "ffffffffffffffff",
    "\u0661",
    "-1",
    '"',
)


def seeds() -> list[bytes]:
    """Return tables of hashes."""
    return [
        b"hash,name,algorithm\nfedcba9876543210,a,phash\n0123456789abcdef,b,phash\n",
        b"hash\n0xfedcba9876543210\n",
        b"name;hash\n;0123456789ABCDEF\n",
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the table, and look a hash of it up."""
    path = folder / "known.csv"
    path.write_bytes(data)
    known = read_known(path)
    assert len(known.hashes) == len(known.names)
    assert known.hashes.dtype == np.uint64
    assert known.digest
