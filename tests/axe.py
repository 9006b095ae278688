"""axe-core, which looks for barriers in a page: fetched once by npm, kept in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

VERSION = "4.14.1"


@cache
def axe_source() -> str:
    """Return axe-core's JavaScript.

    Raises
    ------
    LookupError
        If it is neither kept nor to be had, with the reason.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotune-tests"
    kept = folder / f"axe-core-{VERSION}.tgz"
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise LookupError("axe-core is fetched by npm, which is not installed")
        with tempfile.TemporaryDirectory() as fresh:
            command = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", fresh]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                raise LookupError(f"npm cannot fetch axe-core: {done.stderr.strip()[-200:]}")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(fresh, kept.name), kept)
    with tarfile.open(kept) as packed:
        file = packed.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def barriers(page: Any) -> list[str]:
    """Return what axe-core finds wrong with a page as it is now; nothing where there is no axe-core."""
    try:
        page.evaluate(axe_source())
    except LookupError:
        return []
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{rule['id']}: {rule['help']} {[node['html'][:160] for node in rule['nodes'][:3]]}" for rule in found]
