from __future__ import annotations

from pathlib import Path

import pytest

from cotune.engines.sessions import usable_cores


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("10000 100000", 1)])
def test_a_containers_share_counts(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path / "cpu.max") == min(cores, usable_cores(tmp_path / "none"))


@pytest.mark.parametrize("text", ["max 100000\n", "", "strange"])
def test_without_a_limit_all_cores_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == usable_cores(tmp_path / "none") >= 1
