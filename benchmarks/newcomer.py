"""A newcomer's clock: from ``git clone`` to predictions of three own posts, by the commands of README.md alone.

    python benchmarks/newcomer.py                # this checkout as committed, in a temporary folder; installs from PyPI
    python benchmarks/newcomer.py --keep DIR     # leave the clone in DIR

Prints the seconds of each command. What pip and cotune have in their caches shortens it; ``COTUNE_CACHE`` is set to a
new folder, pip's cache is left as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
POSTS = {
    "lake": "What a day at the lake!",
    "jam": "Two hours in traffic again",
    "cake": "Grandma baked a cake for us",
}


def commands(readme: str) -> list[str]:
    """Return what the first two console blocks of the README type."""
    blocks = re.findall(r"```console\n(.*?)```", readme, flags=re.DOTALL)[:2]
    return [line.removeprefix("$ ").split("  #")[0].rstrip() for block in blocks for line in block.splitlines()]


def main() -> None:
    """Type the commands, one shell each, in the clone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the clone, which is left there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        own = folder / "own"
        own.mkdir()
        for name in POSTS:
            Image.new("RGB", (640, 480), (200, 80 + 7 * len(name), 90)).save(own / f"{name}.jpg")
        table = "".join(f"{text},{name}.jpg\n" for name, text in POSTS.items())
        (own / "posts.csv").write_text(f"text,image\n{table}", encoding="utf-8")
        (args.keep or folder).mkdir(parents=True, exist_ok=True)
        where = args.keep or folder
        typed = commands((ROOT / "README.md").read_text(encoding="utf-8"))
        typed += [f"cotune predict demo-run {own}/posts.csv --out predictions.csv", "cat predictions.csv"]
        environment = {**os.environ, "COTUNE_CACHE": str(folder / "cache")}
        environment.pop("PYTHONPATH", None)
        whole = 0.0
        print("| command | seconds |\n|---|---:|")
        for command in typed:
            started = time.perf_counter()
            line = command.replace("REPOSITORY", str(ROOT))
            if not line.startswith("git clone"):
                line = f"cd cotune; if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi; {line}"
            done = subprocess.run(["bash", "-c", line], cwd=where, env=environment, capture_output=True, text=True)
            took = time.perf_counter() - started
            whole += took
            print(f"| `{command}` | {took:.0f} |", flush=True)
            if done.returncode:
                raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        print(f"| **together** ({whole / 60:.1f} minutes) | {whole:.0f} |\n\n{done.stdout}")
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
