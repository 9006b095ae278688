"""Ask the registry about known vulnerabilities of locked packages, by pip-audit.

    python scripts/audit.py requirements/ci.txt deploy/requirements-serve.txt ... [--strict]

Exit code 1 if there are any. PyPI's own service answers for most; a mirror of it often has none of these data. What
could not be asked about is named, and is an error with --strict only: no answer must not pass for a good one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Audit and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--strict", action="store_true", help="a package that could not be asked about is an error")
    args = parser.parse_args()
    return max(report(path, audit(path), strict=args.strict) for path in args.files)


def audit(path: Path) -> list[dict[str, Any]] | str:
    """Return what pip-audit found about each package, or why it found nothing."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off",
               "--format", "json", "--requirement", str(path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return lines[-1]
    return found


def report(path: Path, found: list[dict[str, Any]] | str, *, strict: bool) -> int:
    """Print what was found in a file of packages; return the exit code."""
    if isinstance(found, str):
        print(f"{path}: not audited, the registry did not answer ({found[:200]})")
        return 1 if strict else 0
    vulnerable = [(each, fault) for each in found for fault in each.get("vulns", ())]
    for each, fault in vulnerable:
        fixed = ", ".join(fault.get("fix_versions", ())) or "none yet"
        print(f"{path}: {each['name']} {each['version']}: {fault['id']} (fixed in: {fixed})")
    skipped = [each["name"] for each in found if "skip_reason" in each]
    asked = len(found) - len(skipped)
    if asked:
        print(f"{path}: {len(vulnerable)} known vulnerabilities in {asked} packages")
    if skipped:
        which = "any of the" if not asked else f"{len(skipped)} of"
        print(f"{path}: the registry has no data on {which} {len(found)} packages, so they are not audited")
    return 1 if vulnerable or (strict and skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
