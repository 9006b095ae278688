"""What docs/serving.md and examples/service tell users to type works as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotune.explain.explainer import Explainer
from explained import random_run
from served import Served, png, running, served_model
from tiny import Zoo

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
WRITTEN = "http://127.0.0.1:8000"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, flags=re.DOTALL)


@pytest.fixture(scope="module")
def service(zoo: Zoo) -> Iterator[Served]:
    run = random_run(zoo)
    with running([served_model(run, explainer=lambda: Explainer(run, device="cpu"))]) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photo.jpg").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@needs_curl
def test_the_curl_lines(service: Served, folder: Path) -> None:
    asked = [block for block in blocks("bash") if "curl" in block]
    assert len(asked) == 3
    for block in asked:
        strict = block.replace("curl ", "curl -sS --fail-with-body ").replace(WRITTEN, service.url)
        done = subprocess.run(["bash", "-euc", strict], capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout[-500:]}{done.stderr}"
        assert '"model":' in done.stdout


def test_the_python_lines(service: Served, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    exec(compile(block.replace(WRITTEN, service.url), "docs/serving.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("class") and "image" in line for line in lines)


@needs_curl
def test_the_examples(service: Served, folder: Path) -> None:
    client = [sys.executable, str(ROOT / "examples/service/client.py"), "what a day", "photo.jpg"]
    script = ["bash", str(ROOT / "examples/service/requests.sh"), "photo.jpg", service.url]
    for command in (client, script):
        done = subprocess.run(command, env={**os.environ, "COTUNE_URL": service.url}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "probabilities" in done.stdout


def test_every_address_stands_in_the_docs(service: Served) -> None:
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if f"{path}`" not in DOCS]
