"""Packages are locked with hashes, the oldest ones are those that pyproject.toml claims, and the lists of them are right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = sorted([*(ROOT / "requirements").glob("*.txt"), *(ROOT / "deploy").glob("requirements-*.txt")])
#: Extras whose own dependencies need a newer numpy (2.0) or pandas (2.2.3) than cotune does, or that are tools.
NOT_OLDEST = {"clean", "ray", "dev", "docs", "gcs", "mlflow", "wandb"}

sys.path.insert(0, str(ROOT / "scripts"))

import audit  # noqa: E402


def pins(path: Path) -> dict[str, list[str]]:
    """Return the locked versions by name; several where they depend on the platform."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*])?==(\S+)", path.read_text(encoding="utf-8"), re.M):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_a_hash(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z])", text, flags=re.M)[1:]
    assert entries
    assert not [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in text


def requirements(extras: set[str]) -> list[Requirement]:
    """Return what pyproject.toml asks for, with these extras."""
    given = PROJECT["optional-dependencies"]
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    return found + [Requirement(line) for extra in sorted(extras) for line in given[extra] if "cotune[" not in line]


def test_the_tests_are_locked_with_all_that_they_need() -> None:
    locked = pins(ROOT / "requirements" / "ci.txt")
    inner = next(Requirement(line) for line in PROJECT["optional-dependencies"]["dev"] if line.startswith("cotune["))
    for wanted in requirements({"dev", *inner.extras}):
        found = locked.get(canonicalize_name(wanted.name), [])
        assert found, f"{wanted.name} is missing: make lock"
        assert all(wanted.specifier.contains(version) for version in found), f"{wanted} is locked at {found}: make lock"
    assert {"setuptools", "wheel"} <= locked.keys(), "nothing else is fetched where hashes are required"


def test_the_oldest_versions_are_those_that_are_claimed() -> None:
    locked = pins(ROOT / "requirements" / "oldest.txt")
    for wanted in requirements(PROJECT["optional-dependencies"].keys() - NOT_OLDEST):
        claimed = next(part.version for part in wanted.specifier if part.operator in (">=", "=="))
        (found,) = locked[canonicalize_name(wanted.name)]
        # A claim may leave out the patch: of 2.2 the first release is meant.
        tested, width = Version(found), len(Version(claimed).release)
        assert tested.release[:width] == Version(claimed).release[:width], f"{wanted} is tested with {found}"


def test_the_workflows_use_the_locks() -> None:
    for name in ("ci.yml", "release.yml"):
        jobs = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))["jobs"]
        steps = [step for job in jobs.values() for step in job["steps"]]
        assert any(".ci/run" in step.get("run", "") and "LOCKED" in step.get("env", {}) for step in steps)
        assert any("make audit AUDIT=--strict" in step.get("run", "") for step in steps)
        assert any("make sbom" in step.get("run", "") for step in steps)
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "make test-oldest" in ci
    assert "make fuzz" in ci


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", **more}


FAULT = {"id": "PYSEC-1", "fix_versions": ["1.1"]}


@pytest.mark.parametrize(
    ("found", "codes", "words"),
    [
        ([package("a", vulns=[]), package("b", vulns=[])], (0, 0), "0 known vulnerabilities in 2 packages"),
        ([package("a", vulns=[FAULT])], (1, 1), "a 1.0: PYSEC-1 (fixed in: 1.1)"),
        ([package("a", skip_reason="not on PyPI")], (0, 1), "no data on any of the 1 packages"),
        ([package("a", vulns=[]), package("b", skip_reason="x")], (0, 1), "no data on 1 of 2 packages"),
        ("connection refused", (0, 1), "not audited, the registry did not answer (connection refused)"),
    ],
)
def test_an_audit_without_an_answer_does_not_pass_for_a_good_one(
    capsys: pytest.CaptureFixture[str], found: Any, codes: tuple[int, int], words: str
) -> None:
    assert tuple(audit.report(Path("a.txt"), found, strict=strict) for strict in (False, True)) == codes
    assert words in capsys.readouterr().out


def test_the_sbom_lists_what_is_locked_and_is_valid(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py", reason="make sbom installs it")
    out = tmp_path / "sbom.json"
    lock = ROOT / "deploy" / "requirements-serve.txt"
    command = [sys.executable, str(ROOT / "scripts" / "make_sbom.py"), str(lock), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(canonicalize_name(each["name"]), each["version"]) for each in found["components"]}
    assert listed == {(name, version) for name, versions in pins(lock).items() for version in versions}
    assert all(each["externalReferences"][0]["hashes"] for each in found["components"])
    assert found["metadata"]["component"]["name"] == "cotune"
