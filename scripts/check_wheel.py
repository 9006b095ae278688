"""Check what is in a wheel and an sdist: every file of the package, and nothing else.

python scripts/check_wheel.py WHEEL SDIST SOURCE
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

_MOST_BYTES = 4 * 2**20  # an accident, such as weights among the package's files, is larger


def faults(wheel: Path, sdist: Path, source: Path) -> list[str]:
    """Return what is wrong, one line each.

    Parameters
    ----------
    wheel, sdist : Path
        What was built.
    source : Path
        The tree it was built from.
    """
    wanted = {path.relative_to(source / "src").as_posix() for path in (source / "src" / "cotune").rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if not name.endswith("/")}
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(packed.read(about))
        scripts = packed.read(about.replace("METADATA", "entry_points.txt")).decode()
    folder = about.rpartition("/")[0]
    found = [f"the wheel lacks {name}" for name in sorted(wanted - names)]
    found += [f"the wheel holds {n}" for n in sorted(names - wanted) if not n.startswith(f"{folder}/")]
    found += [f"the metadata lack {key}" for key in ("License-Expression", "Requires-Python", "Summary", "License-File")
              if not metadata[key]]  # fmt: skip
    if "cotune = cotune.cli:main" not in scripts:
        found.append("the wheel has no command `cotune`")
    with tarfile.open(sdist) as packed:
        inside = {PurePosixPath(*PurePosixPath(m.name).parts[1:]).as_posix() for m in packed if m.isfile()}
    found += [f"the sdist lacks {name}" for name in ["LICENSE", "README.md", "pyproject.toml"] if name not in inside]
    found += [f"the sdist lacks src/{name}" for name in sorted(wanted) if f"src/{name}" not in inside]
    found += [f"{path.name} has {path.stat().st_size:,} bytes" for path in (wheel, sdist)
              if path.stat().st_size > _MOST_BYTES]  # fmt: skip
    return found


if __name__ == "__main__":
    wrong = faults(*map(Path, sys.argv[1:4]))
    for line in wrong:
        sys.stdout.write(f"error: {line}\n")
    sys.exit(bool(wrong))
