"""Chunks that are kept come back as they were, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cotune.data.kept_chunks import KeptChunks, table_key
from cotune.data.predictions import records
from cotune.ownership import PREDICTIONS

TEXTS = {"id", "label", "error"}


def frame(n: int = 3) -> pd.DataFrame:
    numbers = np.asarray([1 / 3, np.nan, 5e-324, 0.1 + 0.2, 1.0])[:n]
    table = {"id": ["007", "ü\n", '"'], "row": [1, 2, 3], "label": ["a", None, "1"], "p": numbers[:3], "share": np.nan}
    return pd.DataFrame({**table, "error": None}).head(n).astype(dict.fromkeys(TEXTS, object))


def kept(folder: Path, **key: object) -> KeptChunks:
    return KeptChunks(folder / ".p.csv.unfinished", {"batch_size": 64, **key}, PREDICTIONS)


def test_a_chunk_comes_back_as_it_was(tmp_path: Path) -> None:
    one = kept(tmp_path)
    assert not one.folder.exists(), "nothing is made before there is something to keep"
    one.write(0, frame(), TEXTS)
    found = kept(tmp_path).read(0, list(frame().columns), TEXTS)
    assert found is not None
    assert list(records(found)) == list(records(frame()))
    assert found.select_dtypes("number").dtypes.to_dict() == {"row": int, "p": float, "share": float}
    assert kept(tmp_path).read(1, list(frame().columns), TEXTS) is None
    one.remove()
    assert not one.folder.exists()


@pytest.mark.parametrize("content", [b"", b'{"id": "a"}\n', b"\xff", b"[1]\n", b'{"id": '])
def test_a_damaged_chunk_is_none(tmp_path: Path, content: bytes) -> None:
    one = kept(tmp_path)
    one.write(0, frame(), TEXTS)
    one.chunk(0).write_bytes(content)
    found = one.read(0, list(frame().columns), TEXTS)
    assert found is None or len(found) == 0


def test_what_differs_is_named_and_never_mixed(tmp_path: Path) -> None:
    one, other = kept(tmp_path), kept(tmp_path, batch_size=32, model="x" * 64)
    assert other.differences() == []
    one.write(0, frame(), TEXTS)
    assert kept(tmp_path).differences() == []
    assert other.differences() == ["batch_size (64, now 32)", "model"]
    assert other.read(0, list(frame().columns), TEXTS) is None
    other.write(1, frame(), TEXTS)
    assert one.chunks() == []
    assert len(other.chunks()) == 1


def test_a_table_that_was_changed_has_another_key(tmp_path: Path) -> None:
    (tmp_path / "posts").mkdir()
    table = tmp_path / "posts" / "a.csv"
    table.write_text("id\n1\n")
    file, folder = table_key(table), table_key(table.parent)
    assert table_key(table) == file
    table.write_text("id\n1\n2\n")
    assert table_key(table) != file
    assert table_key(table.parent) != folder
