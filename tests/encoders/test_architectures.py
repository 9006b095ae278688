"""What every architecture does is what ``docs/results/architectures.md`` says; see :mod:`encoder_table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from architectures import IMAGE, TEXT, Architecture
from encoder_table import all_rows, compute, documented, form_allows
from matrix import COLUMNS, TRAINED, WORKS

#: Each stands for a kind: no mask, transposed or missing linear layers, windows, states turned round, kept biases,
#: random masks, a folder of timm's own, no stages.
SAMPLE = {
    "FNet",
    "GPT-2",
    "I-BERT",
    "Longformer",
    "XLNet",
    "T5",
    "LeViT",
    "ViT MAE",
    "timm test_vit",
    "timm cait_xxs24_224",
}


def check(modality: str, architecture: Architecture, folder: Path, columns: Sequence[str]) -> None:
    expected = documented()[modality, architecture.name]
    assert compute(modality, architecture, folder / "one", columns) == {way: expected[way] for way in columns}


@pytest.mark.parametrize(
    ("modality", "architecture"),
    [pytest.param(*row, id=row[1].name) for row in all_rows() if row[1].name in SAMPLE],
)
def test_a_sample_of_the_architectures(modality: str, architecture: Architecture, tmp_path: Path) -> None:
    check(modality, architecture, tmp_path, TRAINED)


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "architecture"), [pytest.param(*row, id=row[1].name) for row in all_rows()])
def test_every_architecture(modality: str, architecture: Architecture, tmp_path: Path) -> None:
    check(modality, architecture, tmp_path, COLUMNS)


def test_the_document_has_a_row_for_each() -> None:
    rows = documented()
    assert set(rows) == {(modality, architecture.name) for modality, architecture in all_rows()}
    assert len(TEXT) >= 40
    assert len(IMAGE) >= 40


def test_nearly_all_work_in_every_way_that_their_form_allows() -> None:
    rows = documented()
    assert sum(form_allows(row) for row in rows.values()) / len(rows) >= 0.95
    assert all(row["frozen"] == row["joint"] == WORKS for row in rows.values() if form_allows(row))
