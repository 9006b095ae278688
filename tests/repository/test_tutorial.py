"""The tutorial runs as it stands, and was committed with small outputs of a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"
nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")


def printed(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_it_was_committed_after_a_whole_run() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "the same predictions: True" in printed(notebook)
    assert TUTORIAL.stat().st_size < 200_000
    text = TUTORIAL.read_text(encoding="utf-8")
    assert not any(word in text for word in ("/tmp/", "/home/", "site-packages", "Traceback", "stderr"))


@pytest.mark.real
def test_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("captum", reason="the extra explain is not installed")
    from nbclient import NotebookClient

    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "the same predictions: True" in printed(notebook)
    assert any(
        'class="cx"' in output.get("data", {}).get("text/html", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
