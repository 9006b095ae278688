"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "train_and_predict.py": "loaded again; largest difference in a probability: 0.0e+00",
    "cross_validate.py": "concat     mean AUC 0.",
    "explain_a_post.py": "log-odds",
    "own_fusion_head.py": "Bilinear head",
    "command_line.sh": "results are in",
}


def test_all_examples_are_listed() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    assert there == set(SAYS)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in listed for name in there)


@pytest.fixture(scope="session")
def example_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one cache for all examples and all workers: they use the same posts and encoders."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "example_cache"


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(SAYS))
def test_example(name: str, tmp_path: Path, example_cache: Path) -> None:
    interpreter = [sys.executable] if name.endswith(".py") else ["bash"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {
        **os.environ,
        "PATH": path,
        "TMPDIR": str(tmp_path),
        "COTUNE_CACHE": str(example_cache),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [*interpreter, str(EXAMPLES / name)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert SAYS[name] in run.stdout
