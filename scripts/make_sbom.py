"""List what the service image is made of, as a CycloneDX 1.6 document (SBOM) that is checked against its schema.

    python scripts/make_sbom.py deploy/requirements-serve.txt cotune-service.cdx.json

The packages, with version and hashes, are those of the lock file, so that the list is the same each time. The base
image has one of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the document; return the exit code."""
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    requirements, out = Path(sys.argv[1]), Path(sys.argv[2])
    text = json.dumps(about_cotune(listed(requirements)), indent=2) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        print(f"error: the document is not valid: {error}")
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"{out}: {len(json.loads(text)['components'])} packages")
    return 0


def listed(requirements: Path) -> dict[str, Any]:
    """Return what cyclonedx-py makes of a lock file."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "sbom.json"
        subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", str(requirements)),
                *("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"),
                *(
                    "--output-reproducible",
                    "--spec-version",
                    "1.6",
                    "--output-format",
                    "JSON",
                    "--output-file",
                    str(out),
                ),
            ],
            check=True,
        )
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def about_cotune(bom: dict[str, Any]) -> dict[str, Any]:
    """Return the document with cotune's version, which its pyproject.toml does not hold, and all that it depends on."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src" / "cotune" / "_version.py").read_text(encoding="utf-8"))
    assert version is not None
    whole = bom["metadata"]["component"]
    whole["version"] = version[1]
    whole["purl"] = f"pkg:pypi/{whole['name']}@{version[1]}"
    references = sorted(component["bom-ref"] for component in bom["components"])
    others = [each for each in bom.get("dependencies", []) if each["ref"] != whole["bom-ref"]]
    bom["dependencies"] = [{"ref": whole["bom-ref"], "dependsOn": references}, *others]
    for component in bom["components"]:
        component.pop("description", None)  # the line of the lock file, hashes and all, once more
    return bom


if __name__ == "__main__":
    sys.exit(main())
