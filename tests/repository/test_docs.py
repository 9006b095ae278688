"""What the documents name exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("document", "least"), [("docs/reliability.md", 80), ("SECURITY.md", 25)])
def test_every_test_of_the_tables_exists(document: str, least: int) -> None:
    named = 0
    for line in (ROOT / document).read_text().splitlines():
        if not line.startswith("| ") or "`tests/" not in line:
            continue
        file = None
        for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+)[^`]*)?`", line.rsplit("|", 2)[1]):
            file = ROOT / path if path else file
            assert file is not None, line
            assert file.is_file(), line
            assert not name or name in functions(file), f"{file.name} has no {name}"
            named += 1
    assert named > least


def test_links_within_the_repository_lead_somewhere() -> None:
    found = [path for folder in ("docs", "docs/results", "examples") for path in (ROOT / folder).glob("*.md")]
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *found]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
